"""The sequence encoder in torch: two linear recurrent units over typed, timed events (DESIGN section 5).

Source of the unit: Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences"; of its use for
recommendation: Yue et al. 2024, LRURec. Complex numbers are written as pairs of reals, and half of the channels are
kept in a slow band, for lasting taste.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["CHUNK", "SequenceEncoder", "scan"]

CHUNK = 16
"""Steps solved at once by one matrix product per channel."""
FAST_MEMORY_EVENTS = (1.0, 16.0)
SLOW_MEMORY_EVENTS = (16.0, 600.0)


def scan(decay: Tensor, u: Tensor) -> Tensor:
    """h[t] = decay * h[t-1] + u[t] from h[-1] = 0, in O(log T) matrix products.

    decay (2, H): real and imaginary part; u (2, H, N, T) -> h (2, H, N, T). Chunks of ``CHUNK`` steps are solved by
    a triangular matrix of powers; the chunk ends are the inputs of the same problem with decay**CHUNK.
    """
    _, channels, lines, steps = u.shape
    width = min(CHUNK, steps)
    if steps % width:
        return scan(decay, nn.functional.pad(u, (0, width - steps % width)))[..., :steps]
    power = [torch.stack([torch.ones_like(decay[0]), torch.zeros_like(decay[1])])]
    for _ in range(width):
        power.append(_times(power[-1], decay))
    powers = torch.stack(power, dim=-1)  # (2, H, width + 1)
    lag = torch.arange(width) - torch.arange(width)[:, None]  # [s, t] = t - s
    toeplitz = powers[:, :, lag.clamp(min=0)] * (lag >= 0)  # (2, H, s, t)
    within = _matmul(u.reshape(2, channels, -1, width), toeplitz)  # (2, H, N * chunks, width)
    if steps == width:
        return within.reshape(u.shape)
    ends = within[..., -1].reshape(2, channels, lines, -1)  # (2, H, N, chunks)
    carried = scan(powers[..., width], ends)
    before = nn.functional.pad(carried[..., :-1], (1, 0)).reshape(2, channels, -1, 1)  # (2, H, N * chunks, 1)
    return (within + _matmul(before, powers[:, :, None, 1:])).reshape(u.shape)


def _times(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]])


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a[0] @ b[0] - a[1] @ b[1], a[0] @ b[1] + a[1] @ b[0]])


class LinearRecurrentUnit(nn.Module):
    """x (N, T, D) -> y (N, T, D) through H complex channels."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        fast = channels // 2
        low, high = FAST_MEMORY_EVENTS[0], SLOW_MEMORY_EVENTS[1]
        edge = FAST_MEMORY_EVENTS[1]
        lows = torch.cat([torch.full((fast,), low), torch.full((channels - fast,), edge)])
        highs = torch.cat([torch.full((fast,), edge), torch.full((channels - fast,), high)])
        self.memory_low = nn.Buffer(lows.log())
        self.memory_span = nn.Buffer((highs / lows).log())
        self.memory = nn.Parameter(torch.rand(channels) * 4 - 2)
        self.phase = nn.Parameter(torch.rand(channels) * math.pi / highs)
        self.b = nn.Linear(width, 2 * channels)
        self.c = nn.Linear(2 * channels, width)
        with torch.no_grad():  # starts as a slow average of the inputs: what was bought often scores high
            kept = min(width, channels - fast)
            slow = torch.arange(fast, fast + kept)
            self.b.weight[slow] = torch.eye(width)[:kept]
            self.c.weight[:, slow] = 2 * torch.eye(width)[:, :kept]

    def decay(self) -> Tensor:
        """Eigenvalues (2, H); the modulus 1 - 1 / memory stays inside the channel's band."""
        memory = torch.exp(self.memory_low + self.memory_span * torch.sigmoid(self.memory))
        modulus = 1 - 1 / memory
        return torch.stack([modulus * torch.cos(self.phase), modulus * torch.sin(self.phase)])

    def gamma(self) -> Tensor:
        """Input scale (2H,) that keeps every channel at the variance of its input."""
        return torch.sqrt(1 - self.decay().square().sum(0) + 1e-6).repeat(2)

    def forward(self, x: Tensor) -> Tensor:
        u = self.b(x) * self.gamma()  # (N, T, 2H)
        lines, steps, _ = u.shape
        u = u.view(lines, steps, 2, self.channels).permute(2, 3, 0, 1)  # (2, H, N, T)
        h = scan(self.decay(), u).permute(2, 3, 0, 1)  # (N, T, 2, H)
        return self.c(h.reshape(lines, steps, -1))  # (N, T, D)

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, 2H), x (B, D) -> h' (B, 2H), y (B, D)."""
        u = self.b(x) * self.gamma()  # (B, 2H)
        h = _times(self.decay(), h.view(-1, 2, self.channels).transpose(0, 1)).transpose(0, 1).reshape(u.shape) + u
        return h, self.c(h)


class Block(nn.Module):
    """A recurrent unit and a feed-forward layer, each with residual and layer norm."""

    def __init__(self, width: int, channels: int, dropout: float) -> None:
        super().__init__()
        self.unit = LinearRecurrentUnit(width, channels)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.w1 = nn.Linear(width, 4 * width)
        self.w2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x, self.unit(x))

    def mix(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.norm1(x + self.dropout(y))
        return self.norm2(z + self.dropout(self.w2(nn.functional.gelu(self.w1(z)))))


class SequenceEncoder(nn.Module):
    """Events to interest vectors; an item's score is ``vector @ embedding + bias``.

    The hidden state of a user is (S,) = blocks x (real, imaginary) x channels.
    """

    def __init__(
        self, items: int, types: int, gaps: int, *, width: int, channels: int, blocks: int, dropout: float
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(items, width)
        self.types = nn.Embedding(types, width)
        self.gaps = nn.Embedding(gaps, width)
        nn.init.normal_(self.items.weight, std=width**-0.5)
        for table in (self.types, self.gaps):
            nn.init.normal_(table.weight, std=0.01)
        self.bias = nn.Parameter(torch.zeros(items))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, channels, dropout) for _ in range(blocks))
        self.hidden_width = blocks * 2 * channels

    def forward(self, rows: Tensor, types: Tensor, gaps: Tensor) -> Tensor:
        """Whole histories (N, T), padded at the end -> the vector after each event (N, T, D)."""
        x = self.embed(rows, types, gaps)  # (N, T, D)
        for block in self.blocks:
            x = block(x)
        return x

    def step(self, hidden: Tensor, rows: Tensor, types: Tensor, gaps: Tensor) -> tuple[Tensor, Tensor]:
        """hidden (B, S) and one event each (B,) -> hidden' (B, S), vectors (B, D)."""
        x = self.embed(rows, types, gaps)  # (B, D)
        states: list[Tensor] = []
        for block, before in zip(self.blocks, hidden.chunk(len(self.blocks), dim=1), strict=True):
            h, y = cast(Block, block).unit.step(before, x)  # (B, 2H), (B, D)
            x = cast(Block, block).mix(x, y)
            states.append(h)
        return torch.cat(states, dim=1), x

    def embed(self, rows: Tensor, types: Tensor, gaps: Tensor) -> Tensor:
        """Input of the first block: indices of any shape -> that shape + (D,)."""
        return self.dropout(self.norm(self.items(rows) + self.types(types) + self.gaps(gaps)))

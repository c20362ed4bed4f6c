"""The sequence encoder in torch: two linear recurrent units over typed, timed events (DESIGN section 5).

Source of the unit: Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks for Long Sequences"; of its use for
recommendation: Yue et al. 2024, LRURec. Complex numbers are written as pairs of reals, and half of the channels are
kept in a slow band, for lasting taste.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from models.scan import recurrence

__all__ = ["Dropout", "ItemEncoder", "SequenceEncoder"]

FAST_MEMORY_EVENTS = (1.0, 16.0)
SLOW_MEMORY_EVENTS = (16.0, 600.0)
BYTE_VALUES = 256


class Dropout(nn.Module):
    """Dropout with the share rounded to 1/256: a random byte per value costs a tenth of torch's draw on a CPU."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.dropped_values = round(share * BYTE_VALUES)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.dropped_values == 0:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
        drawn = words.random_(-(2**63), None).view(torch.uint8)[: x.numel()].view(x.shape)
        scale = BYTE_VALUES / (BYTE_VALUES - self.dropped_values)
        return x * (drawn >= self.dropped_values).to(x.dtype).mul_(scale)


class ItemEncoder(nn.Module):
    """Events to interest vectors; an item's score is ``vector @ embedding + bias``. What the trainer can train.

    ``model(rows, types, gaps, waves)`` takes packed events (P,) and gives the vector after each of them (P, D).
    """

    history_events_max: int | None = None
    """The newest events that a vector can be made of; None: all."""

    def __init__(self, items: int, width: int) -> None:
        super().__init__()
        self.items = nn.Embedding(items, width)
        nn.init.normal_(self.items.weight, std=width**-0.5)
        self.bias = nn.Parameter(torch.zeros(items))

    def scores(self, vectors: Tensor) -> Tensor:
        """vectors (B, D) -> scores (B, N)."""
        return torch.addmm(self.bias, vectors, self.items.weight.T)


class LinearRecurrentUnit(nn.Module):
    """x (P, D) -> y (P, D), packed, through H complex channels."""

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

    def scaled_b(self, x: Tensor) -> Tensor:
        """gamma * (B x + b): the scale goes into the weights, which are far fewer than the events."""
        gamma = self.gamma()
        return nn.functional.linear(x, self.b.weight * gamma[:, None], self.b.bias * gamma)

    def forward(self, x: Tensor, waves: Sequence[int]) -> Tensor:
        u = self.scaled_b(x)  # (P, 2H)
        return self.c(recurrence(u, self.decay(), waves))  # (P, D)

    def step(self, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, 2H), x (B, D) -> h' (B, 2H), y (B, D)."""
        u = self.scaled_b(x)  # (B, 2H)
        real, imaginary = h.chunk(2, dim=1)  # (B, H) each
        decay_real, decay_imaginary = self.decay()
        turned = (real * decay_real - imaginary * decay_imaginary, real * decay_imaginary + imaginary * decay_real)
        h = torch.cat(turned, dim=1) + u
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
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, waves: Sequence[int]) -> Tensor:
        return self.mix(x, self.unit(x, waves))

    def mix(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.norm1(x + self.dropout(y))
        return self.norm2(z + self.dropout(self.w2(self.dropout(nn.functional.gelu(self.w1(z))))))


class SequenceEncoder(ItemEncoder):
    """The encoder that is served: O(1) work and a state of fixed size per event.

    The hidden state of a user is (S,) = blocks x (real, imaginary) x channels.
    """

    def __init__(
        self, items: int, types: int, gaps: int, *, width: int, channels: int, blocks: int, dropout: float
    ) -> None:
        super().__init__(items, width)
        self.types = nn.Embedding(types, width)
        self.gaps = nn.Embedding(gaps, width)
        for table in (self.types, self.gaps):
            nn.init.normal_(table.weight, std=0.01)
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, channels, dropout) for _ in range(blocks))
        self.hidden_width = blocks * 2 * channels

    def forward(self, rows: Tensor, types: Tensor, gaps: Tensor, waves: Sequence[int]) -> Tensor:
        """Packed events (P,) of whole histories -> the vector after each event (P, D)."""
        x = self.embed(rows, types, gaps)  # (P, D)
        for block in self.blocks:
            x = block(x, waves)
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

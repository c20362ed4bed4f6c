"""SASRec (Kang and McAuley 2018) with the softmax over all items, tied item embeddings and pre-norm blocks."""

import torch
from torch import Tensor, nn

from models.encoder import Dropout, ItemEncoder

__all__ = ["SasRec"]


class SasRec(ItemEncoder):
    """Causal self-attention over the last ``history_events_max`` items; event types and gaps are not used."""

    def __init__(self, items: int, *, width: int, blocks: int, heads: int, events: int, dropout: float) -> None:
        super().__init__(items, width)
        self.history_events_max = events
        self.places = nn.Embedding(events, width)
        nn.init.normal_(self.places.weight, std=width**-0.5)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, rows: Tensor, types: Tensor, gaps: Tensor, waves: list[int]) -> Tensor:
        """Packed events (P,) -> the vector after each event (P, D)."""
        present = torch.arange(waves[0]) < torch.tensor(waves)[:, None]  # (T, N)
        padded = rows.new_zeros(present.shape).masked_scatter(present.to(rows.device), rows).T  # (N, T)
        place = torch.arange(len(waves), device=rows.device)
        x = self.dropout(self.items(padded) + self.places(place))  # (N, T, D)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).transpose(0, 1)[present]  # (T, N, D) -> (P, D)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.w1, self.w2 = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        lines, steps, width = x.shape
        q, k, v = self.project(self.norm1(x)).view(lines, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)  # (N, heads, T, D / heads)
        x = x + self.dropout(self.out(y.transpose(1, 2).reshape(lines, steps, width)))
        wide = self.dropout(nn.functional.relu(self.w1(self.norm2(x))))
        return x + self.dropout(self.w2(wide))

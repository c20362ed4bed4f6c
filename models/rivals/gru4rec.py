"""GRU4Rec (Hidasi et al. 2016) with the softmax over all items, tied item embeddings, and our input dropout."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from models.encoder import Dropout, ItemEncoder

__all__ = ["Gru4Rec"]


class Gru4Rec(ItemEncoder):
    """One GRU layer over the item embeddings; event types and gaps are not used."""

    def __init__(self, items: int, *, width: int, dropout: float) -> None:
        super().__init__(items, width)
        self.dropout = Dropout(dropout)
        self.unit = nn.GRU(width, 2 * width)
        self.out = nn.Linear(2 * width, width)

    def forward(self, rows: Tensor, types: Tensor, gaps: Tensor, waves: list[int]) -> Tensor:
        """Packed events (P,) -> the vector after each event (P, D). Our packing is that of ``PackedSequence``."""
        x = self.dropout(self.items(rows))  # (P, D)
        y, _ = self.unit(PackedSequence(x, torch.tensor(waves)))
        return self.out(self.dropout(y.data))  # (P, 2D) -> (P, D)

"""Losses of the encoder."""

import torch
from torch import Tensor

from operators.interest import OUT_OF_VOCABULARY

__all__ = ["basket_cross_entropy"]


def basket_cross_entropy(
    vectors: Tensor, items: Tensor, bias: Tensor, pair_position: Tensor, pair_row: Tensor
) -> Tensor:
    """Mean over positions of the softmax cross-entropy over ALL items, averaged over a position's targets.

    vectors (P, D), items (N, D), bias (N,); target j is row ``pair_row[j]`` of position ``pair_position[j]``. The
    full softmax needs no correction for sampled negatives. ``OUT_OF_VOCABULARY`` (row 0) is never a candidate.
    """
    first = OUT_OF_VOCABULARY + 1
    logits = torch.addmm(bias[first:], vectors, items[first:].T)  # (P, N - 1)
    total = torch.logsumexp(logits, dim=1)  # (P,)
    count = torch.bincount(pair_position, minlength=len(vectors))  # (P,)
    hit = logits[pair_position, pair_row - first] / count[pair_position]  # (pairs,)
    return (total * (count > 0)).mean() - hit.sum() / len(vectors)

"""Losses of the encoder."""

# pyright: reportIncompatibleMethodOverride=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false
# (torch.autograd.Function declares forward and backward with any arguments, torch only a part of its types)

from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import Function

from operators.interest import OUT_OF_VOCABULARY

__all__ = ["softmax_cross_entropy"]

CHUNK_POSITIONS: Final = 128
"""Rows of the score matrix made at once, so that it stays in the cache."""


def softmax_cross_entropy(
    vectors: Tensor, items: Tensor, bias: Tensor, pair_position: Tensor, pair_row: Tensor
) -> Tensor:
    """Mean over positions of the softmax cross-entropy over ALL items, averaged over a position's targets.

    vectors (P, D), items (N, D), bias (N,); target j is row ``pair_row[j]`` of position ``pair_position[j]``, with
    positions rising. The full softmax needs no correction for sampled negatives. ``OUT_OF_VOCABULARY`` (row 0) is
    never a candidate. The gradient is made along with the value, so that scores (P, N) are never kept.
    """
    return _SoftmaxCrossEntropy.apply(  # pyright: ignore[reportReturnType]  (apply is untyped)
        vectors, items, bias, pair_position, pair_row
    )


class _SoftmaxCrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, items: Tensor, bias: Tensor, pair_position: Tensor, pair_row: Tensor
    ) -> Tensor:
        positions = len(vectors)
        share = 1 / torch.bincount(pair_position, minlength=positions).to(vectors.dtype)  # (P,)
        candidates = bias.clone()
        candidates[OUT_OF_VOCABULARY] = -torch.inf
        grad_vectors, grad_items, grad_bias = torch.empty_like(vectors), torch.zeros_like(items), torch.zeros_like(bias)
        items_t = items.T.contiguous()  # (D, N)
        buffer = vectors.new_empty(min(CHUNK_POSITIONS, positions), len(items))
        starts = torch.arange(0, positions + CHUNK_POSITIONS, CHUNK_POSITIONS, device=pair_position.device)
        bounds = torch.searchsorted(pair_position, starts).tolist()
        total = vectors.new_zeros(())
        for chunk, start in enumerate(range(0, positions, CHUNK_POSITIONS)):
            here = vectors[start : start + CHUNK_POSITIONS]  # (R, D)
            chance = torch.mm(here, items_t, out=buffer[: len(here)]).add_(candidates)  # (R, N)
            torch.softmax(chance, dim=1, out=chance)
            pairs = slice(bounds[chunk], bounds[chunk + 1])
            position, row = pair_position[pairs] - start, pair_row[pairs]
            weight = share[start:][position]
            hit = chance[position, row]
            total -= (weight * hit.clamp(min=torch.finfo(hit.dtype).tiny).log()).sum()
            chance[position, row] = hit - weight
            torch.mm(chance, items, out=grad_vectors[start : start + CHUNK_POSITIONS])
            grad_items.addmm_(chance.T, here)
            grad_bias += chance.sum(dim=0)
        ctx.save_for_backward(grad_vectors, grad_items, grad_bias)
        return total / positions

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        vectors, items, bias = ctx.saved_tensors
        scale = grad / len(vectors)
        return vectors * scale, items * scale, bias * scale, None, None

"""Item vectors to start a training from: items that are met among the same items point the same way."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# (torch declares only a part of its types)

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["item_vectors"]

WINDOW_EVENTS: Final = 10
DECAY: Final = 0.8
"""Weight of a pair from one event further apart."""
CONTEXT_POWER: Final = 0.75
ITERATIONS: Final = 4


def item_vectors(user: NDArray[np.int64], rows: NDArray[np.int64], items: int, width: int) -> Tensor:
    """Unit vectors (N, D) whose products follow how alike the company of two items is.

    ``user`` and ``rows`` (n,) are events grouped by user, oldest first. The truncated singular vectors of the
    positive pointwise mutual information of meeting within ``WINDOW_EVENTS``, with the context distribution smoothed:
    Levy, Goldberg and Dagan 2015. Items that are met nowhere get a random direction. Draws from torch's generator.
    """
    pairs: list[NDArray[np.int64]] = []
    weights: list[NDArray[np.float32]] = []
    for apart in range(1, WINDOW_EVENTS + 1):
        same = user[apart:] == user[:-apart]
        pairs.append(np.stack([rows[:-apart][same], rows[apart:][same]]))
        weights.append(np.full(int(same.sum()), DECAY ** (apart - 1), np.float32))
    where = torch.from_numpy(np.concatenate(pairs, axis=1))  # (2, pairs)
    weight = torch.from_numpy(np.concatenate(weights))
    both = torch.cat([where, where.flip(0)], dim=1)
    met = torch.sparse_coo_tensor(both, weight.repeat(2), (items, items), check_invariants=True).coalesce()
    (row, column), count = met.indices(), met.values()
    total = torch.zeros(items).index_add_(0, row, count)  # (N,)
    context = total**CONTEXT_POWER
    chance = (total[row] * context[column] + total[column] * context[row]) / (2 * context.sum())
    information = torch.log(count / chance).clamp(min=0)
    matrix = torch.sparse_coo_tensor(
        met.indices(), information, (items, items), check_invariants=True, is_coalesced=True
    )
    left, values, _ = torch.svd_lowrank(matrix, q=width, niter=ITERATIONS)
    vectors = left * values.sqrt()  # (N, D)
    nowhere = total == 0
    vectors[nowhere] = torch.randn(int(nowhere.sum()), width)
    return torch.nn.functional.normalize(vectors, dim=1)

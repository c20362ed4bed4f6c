"""The two splits of a leave-one-out file as histories and targets for components.

'Strict' components are fitted on the training part only, 'refit' ones on training and validation part; either way the
history before the target is what they are asked with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.leave_one_out import LeaveOneOutSplit, read_histories, target_ranks
from operators.candidates.component import Histories

__all__ = ["LISTS_AT_ONCE", "LeaveOneOut", "ranks_of", "read_leave_one_out"]

LISTS_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """Users with at least three events each."""

    whole: Histories
    item_ids: list[str]
    """(N,) id of each row of the item matrix, row 0 no item"""

    @property
    def items(self) -> int:
        """N"""
        return len(self.item_ids)

    def train(self, split: LeaveOneOutSplit, *, refit: bool = False) -> Histories:
        """What may be learned from before the split is scored."""
        return self.whole.without_last(1 if refit and split == "test" else 2)

    def before(self, split: LeaveOneOutSplit) -> Histories:
        """The history of each user before the target."""
        return self.whole.without_last(1 if split == "test" else 2)

    def targets(self, split: LeaveOneOutSplit) -> NDArray[np.int64]:
        """(U,)"""
        return self.whole.rows[self.whole.offsets[1:] - (1 if split == "test" else 2)]


def read_leave_one_out(path: Path) -> LeaveOneOut:
    """The users of a leave-one-out file; an event's time is its place counted from its user's newest.

    Raises:
        ModelError: see ``read_histories``.
    """
    read = read_histories(path)
    times = np.arange(len(read.rows)) - np.repeat(read.offsets[1:], read.lengths())
    return LeaveOneOut(Histories(read.offsets, read.rows, times), read.items)


def ranks_of(
    score: Callable[[Histories], NDArray[np.float32]],
    users: Histories,
    targets: NDArray[np.int64],
    advance: Callable[[float], None] = lambda _: None,
) -> NDArray[np.float64]:
    """(U,) rank of each target from 1 on, by ``score`` (users -> (P, N)); ``advance`` is told the share done."""
    ranks: list[NDArray[np.float64]] = []
    for start in range(0, users.users, LISTS_AT_ONCE):
        part = users.between(start, start + LISTS_AT_ONCE)
        histories = [part.rows[a:b] for a, b in pairwise(part.offsets.tolist())]
        ranks.append(target_ranks(score(part), targets[start : start + LISTS_AT_ONCE], histories))
        advance((start + part.users) / users.users)
    return np.concatenate(ranks)

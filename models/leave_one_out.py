"""Files of one user per line (``user item item ...``, oldest first) and the leave-one-out protocol over them.

The last item of each user is the test target, the one before it the validation target. Every item but those of the
user's own history is ranked; equal scores share their middle rank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError
from models.metrics import Scores, gains
from operators.interest import EVENT_TYPES, OUT_OF_VOCABULARY

__all__ = [
    "GAP_FED",
    "HELD_OUT_EVENTS",
    "PROTOCOL",
    "TYPE_FED",
    "Interactions",
    "LeaveOneOutSplit",
    "read_histories",
    "score_users",
    "target_ranks",
]

HELD_OUT_EVENTS: Final = 2
PROTOCOL: Final = (
    "leave one out: the state before the last item but one of each user ranks every item that is not in the history; "
    "equal scores share their middle rank"
)
TYPE_FED: Final = EVENT_TYPES.index("purchase")
"""The files have no event types and no times: an encoder is fed one type and the gap bucket of a first event."""
GAP_FED: Final = 0
USER_EVENTS_MIN: Final = HELD_OUT_EVENTS + 1
CHUNK_USERS: Final = 512

ROW_MAX: Final = 10_000_000
"""Largest item number: the item matrix has a row for every number up to it."""
_FIX: Final = "expected a line per user, `user item item item ...`, items as numbers from 1 on, oldest first"

LeaveOneOutSplit = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class Interactions:
    """All events, grouped by user, oldest first: user u owns ``rows[offsets[u]:offsets[u + 1]]``."""

    users: list[str]
    items: list[str]
    """Item id of each row: the file's numbers as text; row 0 ("") is no item."""
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]

    def lengths(self) -> NDArray[np.int64]:
        """Events of each user (U,)."""
        return np.diff(self.offsets)

    def ends(self, split: LeaveOneOutSplit) -> NDArray[np.int64]:
        """Position in ``rows`` of each user's target (U,); what the user did before it is the input."""
        return self.offsets[1:] - (1 if split == "test" else HELD_OUT_EVENTS)


def read_histories(path: Path) -> Interactions:
    """Read a leave-one-out file. The row of an item is its number in the file.

    Raises:
        ModelError: no such file, or a line is not a user and at least three item numbers from 1 on.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"cannot read {path} ({error}); {_FIX}") from error
    users: list[str] = []
    histories: list[list[int]] = []
    for number, line in enumerate(lines, 1):
        user, *items = line.split() or [""]
        if len(items) < USER_EVENTS_MIN or not all(item.isdecimal() and 0 < int(item) <= ROW_MAX for item in items):
            raise ModelError(f"{path}, line {number} is not a user and {USER_EVENTS_MIN} or more item numbers; {_FIX}")
        users.append(user)
        histories.append([int(item) for item in items])
    if not users:
        raise ModelError(f"{path} is empty; {_FIX}")
    items = max(map(max, histories)) + 1
    return Interactions(
        users,
        ["", *map(str, range(1, items))],
        np.cumsum([0, *map(len, histories)]),
        np.concatenate([np.array(history, np.int64) for history in histories]),
    )


def target_ranks(
    scores: NDArray[np.float32], targets: NDArray[np.int64], histories: list[NDArray[np.int64]]
) -> NDArray[np.float64]:
    """Rank from 1 of each user's target: scores (B, N), targets (B,), what each user did before -> (B,).

    Overwrites the scores of the histories with -inf. A target that is in the history (a repeat) is still ranked.

    Raises:
        ValueError: a score is not a number; every comparison with it would be in the target's favour.
    """
    if np.isnan(scores.min()):
        raise ValueError("a score is not a number")
    lines = np.arange(len(targets))
    target = scores[lines, targets].copy()
    scores[:, OUT_OF_VOCABULARY] = -np.inf
    for line, history in zip(scores, histories, strict=True):
        line[history] = -np.inf
    scores[lines, targets] = target
    above = (scores > target[:, None]).sum(axis=1)
    ties = (scores == target[:, None]).sum(axis=1) - 1
    return np.asarray(1 + above + ties / 2, np.float64)


def score_users(
    data: Interactions, split: LeaveOneOutSplit, score: Callable[[NDArray[np.int64]], NDArray[np.float32]], k: int = 10
) -> Scores:
    """NDCG@k and HR@k of ``score``: users (B,) -> scores (B, N), over every user of the split."""
    ends = data.ends(split)
    ranks: list[NDArray[np.float64]] = []
    for start in range(0, len(ends), CHUNK_USERS):
        users = np.arange(start, min(start + CHUNK_USERS, len(ends)))
        histories = [data.rows[data.offsets[u] : ends[u]] for u in users.tolist()]
        ranks.append(target_ranks(score(users), data.rows[ends[users]], histories))
    rank = np.concatenate(ranks)
    hit_rate = float((rank <= k).mean())
    return Scores(float(gains(rank, k).mean()), hit_rate, hit_rate, len(rank))

"""What everything that scores items has in common: one interface, on rows of the item matrix.

A component knows users only by their histories, so that one who came a minute ago is served like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from operators.interest import OUT_OF_VOCABULARY

__all__ = ["Candidates", "Component", "Histories", "StreamedComponent", "top_rows"]


@dataclass(frozen=True, slots=True)
class Histories:
    """Events of U users, oldest first: user u owns ``offsets[u]:offsets[u + 1]`` of both columns."""

    offsets: NDArray[np.int64]
    """(U + 1,)"""
    rows: NDArray[np.int64]
    """(n,) item of each event"""
    times_ms: NDArray[np.int64]
    """(n,) event time; any clock that grows along every history will do"""

    @classmethod
    def of(cls, histories: Sequence[Sequence[int]]) -> "Histories":
        """Histories without times: an event's time is its place counted from its user's newest (-1)."""
        lengths = np.array([len(history) for history in histories], np.int64)
        rows = np.concatenate([np.asarray(history, np.int64) for history in histories] or [np.empty(0, np.int64)])
        offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
        return cls(offsets, rows, np.arange(len(rows)) - np.repeat(offsets[1:], lengths))

    @property
    def users(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(U,) events of each user."""
        return np.diff(self.offsets)

    @property
    def user_of_event(self) -> NDArray[np.int64]:
        """(n,) the user of each event."""
        return np.repeat(np.arange(self.users), self.lengths)

    @property
    def age_events(self) -> NDArray[np.int64]:
        """(n,) events of the same user that are newer than each."""
        return np.repeat(self.offsets[1:], self.lengths) - np.arange(len(self.rows)) - 1

    def between(self, start: int, stop: int) -> "Histories":
        """The users ``start:stop``."""
        offsets = self.offsets[start : stop + 1]
        events = slice(int(offsets[0]), int(offsets[-1]))
        return Histories(offsets - offsets[0], self.rows[events], self.times_ms[events])

    def chosen(self, users: NDArray[np.int64]) -> "Histories":
        """Some of the users, in the order asked for."""
        lengths = self.lengths[users]
        offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
        events: NDArray[np.int64] = np.arange(int(offsets[-1])) + np.repeat(self.offsets[users] - offsets[:-1], lengths)
        return Histories(offsets, self.rows[events], self.times_ms[events])

    def without_last(self, events: int) -> "Histories":
        """The same users without the newest events of each; nothing is left of a shorter history."""
        kept = self.age_events >= events
        return Histories(
            np.r_[0, np.cumsum(np.maximum(self.lengths - events, 0))].astype(np.int64),
            self.rows[kept],
            self.times_ms[kept],
        )

    def newest(self, events: int) -> NDArray[np.int64]:
        """(U, events) the newest items of each user, newest first, filled with ``OUT_OF_VOCABULARY``."""
        return self._back_from(self.offsets[1:], self.offsets[:-1], events)

    def before(self, places: NDArray[np.int64], events: int) -> NDArray[np.int64]:
        """(P, events) the same user's items before each event (P,), newest first, filled with row 0."""
        return self._back_from(places, np.repeat(self.offsets[:-1], self.lengths)[places], events)

    def _back_from(self, ends: NDArray[np.int64], starts: NDArray[np.int64], events: int) -> NDArray[np.int64]:
        place = ends[:, None] - 1 - np.arange(events)
        inside = place >= starts[:, None]
        if not len(self.rows):
            return np.full(place.shape, OUT_OF_VOCABULARY, np.int64)
        return np.where(inside, self.rows[np.where(inside, place, 0)], OUT_OF_VOCABULARY)


class Candidates(NamedTuple):
    """The best items of each user: ``scores`` (U, k) falling, ``rows`` (U, k)."""

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]


class Component(Protocol):
    """A scorer of all items for users known by their histories."""

    def fit(self, histories: Histories) -> None:
        """Learn from whole histories, afresh; what cannot learn does nothing."""
        ...

    def scores(self, users: Histories) -> NDArray[np.float32]:
        """(U, N) a score for every row of the item matrix, comparable within a user; of row 0 it means nothing."""
        ...

    def candidates(self, users: Histories, k: int) -> Candidates:
        """The ``k`` best items of each user, those of the history among them; equal scores by row."""
        scores = self.scores(users)
        scores[:, OUT_OF_VOCABULARY] = -np.inf
        rows = top_rows(scores, k)
        return Candidates(np.take_along_axis(scores, rows, axis=1), rows)


@runtime_checkable
class StreamedComponent(Protocol):
    """A component that also learns event by event."""

    def update(self, before: Sequence[int], row: int, time_ms: int) -> None:
        """Learn that a user whose newest items were ``before`` (oldest first) went on to ``row``."""
        ...


def top_rows(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Columns of the k highest of each line: scores (B, N) -> (B, k), best first, equal scores by column."""
    kept = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)  # (B, k)
    best = np.take_along_axis(scores, kept, axis=1)
    least = best.min(axis=1, keepdims=True)
    # Of the columns that equal the k-th highest, the partition took any.
    cut = np.flatnonzero((scores == least).sum(axis=1) > (best == least).sum(axis=1))
    for line in cut.tolist():  # faster than a running count over every column of all of them
        above, equal = np.flatnonzero(scores[line] > least[line]), np.flatnonzero(scores[line] == least[line])
        kept[line] = np.concatenate([above, equal[: k - len(above)]])
    order = np.argsort(-np.take_along_axis(scores, kept, axis=1), axis=1, kind="stable")
    return np.take_along_axis(kept, order, axis=1).astype(np.int64)

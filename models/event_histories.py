"""Any history of typed, timed events as columns grouped by user, split by time once for all users."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.dataset import gap_buckets
from models.errors import ModelError
from operators.interest import OUT_OF_VOCABULARY

__all__ = ["EventHistories", "TimedRecord", "event_histories", "item_of", "split_by_share"]


class TimedRecord(Protocol):
    """An event of a history, as ``headwater replay`` sends it."""

    @property
    def timestamp_ms(self) -> int: ...
    @property
    def event_type(self) -> int: ...
    @property
    def key(self) -> bytes: ...
    @property
    def value(self) -> bytes: ...


class _Item(msgspec.Struct):
    item_id: str


_decoded = msgspec.json.Decoder(_Item).decode


def item_of(record: TimedRecord) -> str:
    """The item id in the record's value."""
    return _decoded(record.value).item_id


@dataclass(frozen=True, slots=True)
class EventHistories:
    """User u owns ``offsets[u]:offsets[u + 1]`` of each column (n,), oldest first."""

    items: list[str]
    """Item id of each row; row 0 ("") is every item that was too rare before the validation period."""
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    types: NDArray[np.int64]
    gaps: NDArray[np.int64]
    times_ms: NDArray[np.int64]
    validation_ms: int
    test_ms: int
    answers: NDArray[np.bool_]
    """(n,) events that took an item of the list that the user was shown before; no list is known of a file's users."""

    def ends(self, before_ms: int) -> NDArray[np.int64]:
        """(U,) first position of each user that is not before ``before_ms``."""
        earlier = np.r_[0, np.cumsum(self.times_ms < before_ms)]
        return self.offsets[:-1] + earlier[self.offsets[1:]] - earlier[self.offsets[:-1]]

    def period(self, split: Literal["validation", "test"]) -> tuple[int, int]:
        """Start and end in ms."""
        if split == "validation":
            return self.validation_ms, self.test_ms
        return self.test_ms, int(self.times_ms.max()) + 1


_SHARES: Final = (0.8, 0.9)
"""Of the events, before the validation and the test period of a history without periods of its own."""


def split_by_share(times_ms: Sequence[int]) -> tuple[int, int]:
    """Start of the validation and of the test period of events at ``times_ms``, in their order; there are some."""
    validation_ms, test_ms = (times_ms[int(share * len(times_ms))] for share in _SHARES)
    return validation_ms, test_ms


def event_histories(
    records: Iterable[TimedRecord],
    validation_ms: int,
    test_ms: int,
    *,
    count_min: int,
    answers: Callable[[TimedRecord, str], bool] = lambda _record, _item_id: False,
) -> EventHistories:
    """Group ``records`` (in event-time order) by user.

    Args:
        count_min: events before the validation period that an item needs for a row of its own.
        answers: whether an event, of this item, took what a list had shown.

    Raises:
        ModelError: nothing is left to learn from.
    """
    users: dict[bytes, int] = {}
    ids: dict[str, int] = {}
    columns: list[tuple[int, int, int, int, bool]] = []
    for record in records:
        item_id = item_of(record)
        user, item = users.setdefault(record.key, len(users)), ids.setdefault(item_id, len(ids))
        columns.append((user, item, record.event_type, record.timestamp_ms, answers(record, item_id)))
    user, item, types, times_ms, answered = np.array(columns, np.int64).reshape(-1, 5).T
    counts = np.bincount(item[times_ms < validation_ms], minlength=len(ids))
    kept = np.flatnonzero(counts >= count_min)
    kept = kept[np.argsort(-counts[kept], kind="stable")]
    if not len(kept):
        raise ModelError(f"no item has {count_min} events before the validation period; give a longer history")
    row_of = np.full(len(ids), OUT_OF_VOCABULARY)
    row_of[kept] = np.arange(1, len(kept) + 1)
    order = np.argsort(user, kind="stable")
    names, sorted_user = list(ids), user[order]
    first = np.r_[True, sorted_user[1:] != sorted_user[:-1]]
    return EventHistories(
        ["", *(names[n] for n in kept.tolist())],
        np.r_[0, np.cumsum(np.bincount(user, minlength=len(users)))].astype(np.int64),
        row_of[item[order]],
        types[order],
        gap_buckets(times_ms[order], first),
        times_ms[order],
        validation_ms,
        test_ms,
        answered[order] > 0,
    )

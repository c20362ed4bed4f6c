"""Events of a batch as parallel columns, and how the records of a chunk become some."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from operators import limits
from operators.events import Event, Rejected, decode
from operators.plain import decode_plain
from operators.records import Records

__all__ = ["Columns", "decode_columns", "taken"]

_Value = TypeVar("_Value")


class Columns(NamedTuple):
    """Accepted events; entry n of every column is of the n-th event."""

    keys: list[bytes]
    """User ids in UTF-8."""
    item_ids: list[str]
    types: NDArray[np.int64]
    """(E,) indices into ``EVENT_TYPES``."""
    times_ms: NDArray[np.int64]
    """(E,) event times."""
    offsets: NDArray[np.int64]
    """(E,) of the records in their partitions."""
    fingerprints: NDArray[np.uint64]
    """(E,) 64-bit digests of the event ids; 0 where there is none."""

    @property
    def size(self) -> int:
        """How many events there are."""
        return len(self.keys)

    def event(self, n: int) -> Event:
        """The n-th event."""
        return Event(
            self.keys[n],
            self.item_ids[n],
            int(self.types[n]),
            int(self.times_ms[n]),
            int(self.offsets[n]),
            int(self.fingerprints[n]),
        )

    def part(self, start: int, end: int) -> "Columns":
        """The events from place ``start`` up to ``end``."""
        return Columns(*(column[start:end] for column in self))  # type: ignore[arg-type]  # each of its own kind

    def in_order(self, order: NDArray[np.int64]) -> "Columns":
        """The events at the places ``order``, in that order."""
        return Columns(
            taken(self.keys, order),
            taken(self.item_ids, order),
            self.types[order],
            self.times_ms[order],
            self.offsets[order],
            self.fingerprints[order],
        )

    def grouped(self, group_of: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of the events group by group, each group's in the order of time, type and offset.

        Args:
            group_of: (E,) number of the group of each event.
        """
        if not self.size:
            return np.arange(0)
        columns = (group_of, self.times_ms, self.types, self.offsets)
        least = [int(column.min()) for column in columns]
        widths = [(int(column.max()) - low).bit_length() for column, low in zip(columns, least, strict=True)]
        if sum(widths) >= 64:
            return np.lexsort(columns[::-1])
        # One number for all four: sorting by it costs a fraction of sorting four times.
        keys = np.zeros(self.size, np.int64)
        for column, low, width in zip(columns, least, widths, strict=True):
            keys = keys << width | column - low
        return np.argsort(keys, kind="stable")

    @classmethod
    def of(cls, events: Sequence[Event]) -> "Columns":
        """The same events as columns."""
        return cls(
            [event.key for event in events],
            [event.item_id for event in events],
            np.array([event.type for event in events], np.int64),
            np.array([event.timestamp_ms for event in events], np.int64),
            np.array([event.offset for event in events], np.int64),
            np.array([event.fingerprint for event in events], np.uint64),
        )


def decode_columns(parts: Sequence[tuple[Records, int]], now_ms: int) -> tuple[Columns, list[tuple[int, Rejected]]]:
    """``decode`` of every record: the accepted events in order, and place and reason of every other record.

    Plain events are decoded all at once; a record that is none goes the careful way alone.

    Args:
        parts: records, and the event type of their topic; a place counts those of the parts before.
    """
    starts = [0, *accumulate(len(records) for records, _ in parts)]
    is_plain, times_ms = np.empty(starts[-1], np.uint8), np.empty(starts[-1], np.int64)
    keys: list[Any] = []
    item_ids: list[Any] = []
    event_ids: list[bytes | None] = []
    latest_ms = min(now_ms + limits.future_skew_ms, limits.timestamp_ms_max)
    for (records, _), start, end in zip(parts, starts, starts[1:], strict=False):
        found = decode_plain(records.data, records.index, latest_ms, is_plain[start:end], times_ms[start:end])
        keys += found[0]
        item_ids += found[1]
        event_ids += found[2]
    fingerprints = _fingerprints(event_ids)
    rejected: list[tuple[int, Rejected]] = []
    for place in np.flatnonzero(is_plain == 0).tolist():
        part = bisect_right(starts, place) - 1
        records, event_type = parts[part]
        record = records.record(place - starts[part])
        event = decode(record.value, record.key, record.headers, event_type, record.offset, now_ms)
        if isinstance(event, Rejected):
            rejected.append((place, event))
        else:
            keys[place], item_ids[place] = event.key, event.item_id
            times_ms[place], fingerprints[place] = event.timestamp_ms, event.fingerprint
    types = np.repeat(np.array([event_type for _, event_type in parts], np.int64), np.diff(starts))
    offsets = np.concatenate([records.offsets for records, _ in parts]) if parts else times_ms
    columns = Columns(keys, item_ids, types, times_ms, offsets, fingerprints)
    if rejected:
        columns = columns.in_order(np.delete(np.arange(starts[-1]), [place for place, _ in rejected]))
    return columns, rejected


def taken(values: list[_Value], places: NDArray[np.int64]) -> list[_Value]:
    """The values at these places, by an array of objects: Python's own loop takes more than twice the time."""
    return np.fromiter(values, np.object_, len(values)).take(places).tolist()


def _fingerprints(event_ids: Sequence[bytes | None]) -> NDArray[np.uint64]:
    """``operators.events.fingerprint_of`` of each id, 0 for none."""
    given = [0 if event_id is None else xxh3_64_intdigest(event_id) or 1 for event_id in event_ids]
    return np.array(given, np.uint64)

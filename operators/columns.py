"""Events of a batch as parallel columns, and the quick way there: whole chunks are decoded and checked at once."""

import math
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.events import Event, Rejected, decode, fingerprint_of
from operators.wire import CONTROL, JSON_HEADERS, Format, Wire, decoders, openers_count

__all__ = ["Columns", "decode_columns"]

_ALONE_RECORDS: Final = 4
"""Of so few records each is checked alone: it costs no more than all at once."""
_HEADERS: Final[dict[Format, list[list[tuple[str, bytes]]]]] = {
    "json": [JSON_HEADERS, []],
    "msgpack": [[("content-type", b"application/msgpack")]],
}
_NUL: Final = "\x00"
_CONTROL_BUT_NUL: Final = re.compile(CONTROL.replace(_NUL, "\x01"))
_UTF8_BYTES_PER_CHARACTER: Final = 4


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

    def in_order(self, order: NDArray[np.int64]) -> "Columns":
        """The events at the places ``order``, in that order."""
        keys, item_ids, places = self.keys, self.item_ids, order.tolist()
        return Columns(
            [keys[n] for n in places],
            [item_ids[n] for n in places],
            self.types[order],
            self.times_ms[order],
            self.offsets[order],
            self.fingerprints[order],
        )

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

    @classmethod
    def joined(cls, parts: Sequence["Columns"]) -> "Columns":
        """The events of all parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.of([])
        return cls(
            [key for part in parts for key in part.keys],
            [item_id for part in parts for item_id in part.item_ids],
            np.concatenate([part.types for part in parts]),
            np.concatenate([part.times_ms for part in parts]),
            np.concatenate([part.offsets for part in parts]),
            np.concatenate([part.fingerprints for part in parts]),
        )


def decode_columns(records: Sequence[Any], event_type: int, now_ms: int) -> tuple[Columns, list[tuple[int, Rejected]]]:
    """``decode`` of every record: the accepted events in order, and place and reason of every other record.

    The records are decoded and checked all at once. Where that fails, each half is tried, and so on: a record that
    is not plain sends only its neighbours the careful way with it.
    """
    parts: list[Columns] = []
    rejected: list[tuple[int, Rejected]] = []
    ranges = [(0, len(records))]
    while ranges:
        start, end = ranges.pop()
        if end - start <= _ALONE_RECORDS:
            parts.append(_alone(records, start, end, event_type, now_ms, rejected))
            continue
        part = _at_once(records[start:end], event_type, now_ms)
        if part is None:
            middle = (start + end) // 2
            ranges += [(middle, end), (start, middle)]
        else:
            parts.append(part)
    return Columns.joined(parts), rejected


def _alone(
    records: Sequence[Any], start: int, end: int, event_type: int, now_ms: int, rejected: list[tuple[int, Rejected]]
) -> Columns:
    events: list[Event] = []
    for place in range(start, end):
        record = records[place]
        event = decode(record.value, record.key, record.headers, event_type, record.offset, now_ms)
        if isinstance(event, Rejected):
            rejected.append((place, event))
        else:
            events.append(event)
    return Columns.of(events)


def _at_once(records: Sequence[Any], event_type: int, now_ms: int) -> Columns | None:
    """The records as events, or None where one of them may be none. What passes here passes ``decode`` alike.

    The checks are those of ``decode``, each over the whole column, some of them stricter: a depth is bounded by the
    count of what may open a container, an id's bytes by four times its characters.
    """
    values = [record.value for record in records]
    keys = [record.key for record in records]
    fmt = _format_of([record.headers for record in records])
    if fmt is None or None in values or None in keys or max(map(len, values)) > limits.event_bytes_max:
        return None
    joined = b"".join(values)
    if _may_be_too_deep(values, joined, fmt):
        return None
    try:
        decode_one = decoders[fmt]
        wires = [decode_one(value) for value in values]
        # JSON holds a control character only behind a backslash, all but DEL.
        controls = fmt != "json" or b"\\" in joined or b"\x7f" in joined
        event_ids = [wire.event_id for wire in wires]
        if not (_fit_ids(wires, event_ids, keys, controls) and _fit_numbers(wires, now_ms)):
            return None
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
        return None
    prints = [0 if event_id is None else fingerprint_of(event_id) for event_id in event_ids]
    return Columns(
        keys,
        [wire.item_id for wire in wires],
        np.full(len(wires), event_type, np.int64),
        np.array([wire.timestamp for wire in wires], np.int64),
        np.array([record.offset for record in records], np.int64),
        np.array(prints, np.uint64),
    )


def _format_of(headers: list[Sequence[tuple[str, bytes]]]) -> Format | None:
    """The format that all the headers name, None where they differ or say more than that."""
    for fmt, plain in _HEADERS.items():
        if headers[0] in plain:
            return fmt if headers.count(headers[0]) == len(headers) else None
    return None


def _may_be_too_deep(values: list[bytes], joined: bytes, fmt: Format) -> bool:
    if fmt == "json" and b"[" not in joined:
        return max([value.count(b"{") for value in values]) > limits.context_depth_max
    return max([openers_count(value, fmt) for value in values]) > limits.context_depth_max


def _fit_ids(wires: list[Wire], event_ids: list[str | None], keys: list[bytes], controls: bool) -> bool:
    users = [wire.user_id for wire in wires]
    # No id holds a NUL (see below), so equal joined strings have equal parts.
    if _NUL.join(users).encode() != b"\x00".join(keys):
        return False
    ids = [*users, *[wire.item_id for wire in wires], *[one for one in event_ids if one is not None]]
    ids += [wire.session_id for wire in wires if wire.session_id is not None]
    lengths = list(map(len, ids))
    if min(lengths) == 0:
        return False
    together = _NUL.join(ids)
    per_character = 1 if together.isascii() else _UTF8_BYTES_PER_CHARACTER
    if max(lengths) * per_character > limits.id_bytes_max:
        return False
    return not controls or (together.count(_NUL) == len(ids) - 1 and _CONTROL_BUT_NUL.search(together) is None)


def _fit_numbers(wires: list[Wire], now_ms: int) -> bool:
    times_ms: list[Any] = [wire.timestamp for wire in wires]
    if None in times_ms:
        return False
    latest_ms = min(now_ms + limits.future_skew_ms, limits.timestamp_ms_max)
    amounts = [wire.value for wire in wires if wire.value is not None]
    if any(map(math.isnan, amounts)):
        return False
    return (
        min(times_ms) >= limits.timestamp_ms_min
        and max(times_ms) <= latest_ms
        and (not amounts or (min(amounts) >= -limits.value_max and max(amounts) <= limits.value_max))
    )

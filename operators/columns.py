"""Events of a batch as parallel columns, and the quick way there: its records are decoded and checked together."""

import math
import re
from collections.abc import Sequence
from itertools import compress
from operator import itemgetter
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.events import Event, Rejected, decode, fingerprint_of
from operators.wire import CONTROL, JSON_HEADERS, UNDECODABLE, Format, Wire, decoders, openers_count

__all__ = ["Columns", "decode_columns"]

_ALONE_RECORDS: Final = 4
"""Of so few records each is checked alone: it costs no more than all at once."""
_Headers = Sequence[tuple[str, bytes]]
_HEADERS: Final[dict[Format, list[_Headers]]] = {
    "json": [JSON_HEADERS, []],
    "msgpack": [[("content-type", b"application/msgpack")]],
}
_OTHER_FORMAT: Final[dict[Format, Format]] = {"json": "msgpack", "msgpack": "json"}
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


def decode_columns(
    records: Sequence[Any], types: Sequence[int], now_ms: int
) -> tuple[Columns, list[tuple[int, Rejected]]]:
    """``decode`` of every record: the accepted events in order, and place and reason of every other record.

    A record that stands out by itself, by its headers or as bytes that are no event, goes the careful way alone. The
    others are checked all at once; where that fails each half is, and so on, until a few are left that go that way too.

    Args:
        types: of each record, by its topic.
    """
    plain = _plain(records) if len(records) > _ALONE_RECORDS else _NONE_PLAIN
    sound = _sound(plain, records, now_ms)
    if len(sound) == len(records):
        return _columns(records, plain.wires, types), []
    places = [plain.places[n] for n in sound]
    events: dict[int, Event] = {}
    rejected: list[tuple[int, Rejected]] = []
    for place in sorted(set(range(len(records))).difference(places)):
        record = records[place]
        event = decode(record.value, record.key, record.headers, types[place], record.offset, now_ms)
        if isinstance(event, Rejected):
            rejected.append((place, event))
        else:
            events[place] = event
    alone = Columns.of(list(events.values()))
    if not sound:
        return alone, rejected
    at_once = [records[place] for place in places]
    columns = _columns(at_once, [plain.wires[n] for n in sound], [types[place] for place in places])
    if events:
        columns = Columns.joined([columns, alone]).in_order(np.argsort([*places, *events]))
    return columns, rejected


class _Plain(NamedTuple):
    """The records that are plain events, as far as each can tell by itself."""

    places: Sequence[int]
    wires: list[Wire]
    may_hold_controls: bool
    """Whether an id may hold a control character."""


_NONE_PLAIN: Final = _Plain([], [], False)


def _plain(records: Sequence[Any]) -> _Plain:
    """The plain events among the records, of whichever format each is."""
    headers = [record.headers for record in records]
    fmt = _format_of(headers)
    plain = _plain_of(records, headers, fmt)
    if len(plain.places) == len(records):
        return plain
    others = _plain_of(records, headers, _OTHER_FORMAT[fmt])
    if not others.places:
        return plain
    placed = [*zip(plain.places, plain.wires, strict=True), *zip(others.places, others.wires, strict=True)]
    places, wires = zip(*sorted(placed, key=itemgetter(0)), strict=True)
    return _Plain(places, list(wires), plain.may_hold_controls or others.may_hold_controls)


def _plain_of(records: Sequence[Any], headers: list[_Headers], fmt: Format) -> _Plain:
    places, values = _complete(records, headers, fmt)
    joined = b"".join(values)
    openers = _openers(values, joined, fmt)
    if max(openers, default=0) > limits.context_depth_max:
        shallow = [count <= limits.context_depth_max for count in openers]
        places, values = list(compress(places, shallow)), list(compress(values, shallow))
    wires: list[Wire] = []
    undecodable: set[int] = set()
    decoded = map(decoders[fmt], values)
    while len(wires) + len(undecodable) < len(values):
        try:
            wires.extend(decoded)  # what came before an exception stays, and the iterator goes on behind it
        except UNDECODABLE:
            undecodable.add(len(wires) + len(undecodable))
    if undecodable:
        places = [place for n, place in enumerate(places) if n not in undecodable]
    # JSON holds a control character only behind a backslash, all but DEL.
    return _Plain(places, wires, fmt != "json" or b"\\" in joined or b"\x7f" in joined)


def _format_of(headers: list[_Headers]) -> Format:
    """The format that the first plain headers name."""
    for given in headers:
        for fmt, plain in _HEADERS.items():
            if given in plain:
                return fmt
    return "json"


def _complete(records: Sequence[Any], headers: list[_Headers], fmt: Format) -> tuple[Sequence[int], list[bytes]]:
    """Places and values of the records with a key, a value of no more bytes than are taken, and headers of ``fmt``."""
    values = [record.value for record in records]
    keys = [record.key for record in records]
    alike = headers[0] in _HEADERS[fmt] and headers.count(headers[0]) == len(headers)
    if alike and None not in values and None not in keys and max(map(len, values)) <= limits.event_bytes_max:
        return range(len(records)), values
    places = [
        place
        for place, (given, key, value) in enumerate(zip(headers, keys, values, strict=True))
        if key is not None and value is not None and len(value) <= limits.event_bytes_max and given in _HEADERS[fmt]
    ]
    return places, [values[place] for place in places]


def _sound(plain: _Plain, records: Sequence[Any], now_ms: int) -> list[int]:
    """Which of the plain events are events indeed, in order. What passes here passes ``decode`` alike.

    The checks are those of ``decode``, each over the whole column, some of them stricter: a depth is bounded by the
    count of what may open a container, an id's bytes by four times its characters.
    """
    keys = [records[place].key for place in plain.places]
    sound: list[int] = []
    ranges = [(0, len(keys))]
    while ranges:
        start, end = ranges.pop()
        if end - start <= _ALONE_RECORDS:
            continue
        wires = plain.wires[start:end]
        if _fit_ids(wires, keys[start:end], plain.may_hold_controls) and _fit_numbers(wires, now_ms):
            sound += range(start, end)
        else:
            middle = (start + end) // 2
            ranges += [(middle, end), (start, middle)]
    return sound


def _columns(records: Sequence[Any], wires: list[Wire], types: Sequence[int]) -> Columns:
    event_ids = [wire.event_id for wire in wires]
    return Columns(
        [record.key for record in records],
        [wire.item_id for wire in wires],
        np.array(types, np.int64),
        np.array([wire.timestamp for wire in wires], np.int64),
        np.array([record.offset for record in records], np.int64),
        np.array([0 if event_id is None else fingerprint_of(event_id) for event_id in event_ids], np.uint64),
    )


def _openers(values: list[bytes], joined: bytes, fmt: Format) -> list[int]:
    """``openers_count`` of each value."""
    if fmt == "json" and b"[" not in joined:
        return [value.count(b"{") for value in values]
    return [openers_count(value, fmt) for value in values]


def _fit_ids(wires: list[Wire], keys: list[bytes], controls: bool) -> bool:
    users = [wire.user_id for wire in wires]
    # No id holds a NUL (see below), so equal joined strings have equal parts.
    if _NUL.join(users).encode() != b"\x00".join(keys):
        return False
    ids = [*users, *[wire.item_id for wire in wires]]
    ids += [wire.event_id for wire in wires if wire.event_id is not None]
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

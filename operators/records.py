"""Consumed records of one partition: their bytes in one piece, and where in it the parts of each record are.

A chunk of a thousand records is so two objects and not several thousand, and compiled code reads it as it is.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap
from typing import Any, Final, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from operators.wire import JSON_HEADERS

__all__ = [
    "JSON_RECORD_HEADERS",
    "MSGPACK_RECORD_HEADERS",
    "NO_RECORD_HEADERS",
    "PackedRecord",
    "Record",
    "Records",
]

Headers = Sequence[tuple[str, bytes | None]]

OFFSET, TIMESTAMP, KEY, KEY_END, VALUE, VALUE_END, HEADERS, HEADERS_END = range(8)
"""Columns of ``Records.index``: two numbers, and three times where a part begins and ends; -1 for one that is null."""


class Record(Protocol):
    """A consumed record, as every Kafka client has it."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class PackedRecord(NamedTuple):
    """One of ``Records`` by itself."""

    offset: int
    timestamp: int
    """In ms; 0 where nobody has given one."""
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    """A value may be missing, which nobody's types say."""


class Records:
    """N consecutive records of one partition."""

    __slots__ = ("data", "index")

    def __init__(self, data: bytes, index: NDArray[np.int64]) -> None:
        """
        Args:
            data: what the parts are in; headers are as in a Kafka record (format v2).
            index: (N, 8), of the columns above.
        """
        self.data: Final = data
        self.index: Final = index

    @classmethod
    def of(cls, records: "Iterable[Any] | Records") -> "Records":
        """The same records (``Record``, perhaps with a ``timestamp``); clients' classes do not declare it."""
        if isinstance(records, Records):
            return records
        parts: list[bytes] = []
        index: list[list[int]] = []
        at = 0
        for record in records:
            row = [record.offset, getattr(record, "timestamp", 0)]
            for part in (record.key, record.value, _packed_headers(record.headers)):
                if part is None:
                    row += [-1, -1]
                else:
                    row += [at, at + len(part)]
                    parts.append(part)
                    at += len(part)
            index.append(row)
        return cls(b"".join(parts), np.array(index, np.int64).reshape(-1, 8))

    @classmethod
    def joined(cls, parts: Sequence["Records"]) -> "Records":
        """The records of all parts, of which there is one at least, one after the other."""
        first = parts[0]
        if len(parts) == 1:
            return first
        if all(part.data is first.data for part in parts):
            return cls(first.data, np.concatenate([part.index for part in parts]))
        moved: list[NDArray[np.int64]] = []
        at = 0
        for part in parts:
            index = part.index.copy()
            spans = index[:, KEY:]
            spans[spans >= 0] += at
            moved.append(index)
            at += len(part.data)
        return cls(b"".join([part.data for part in parts]), np.concatenate(moved))

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[PackedRecord]:
        return starmap(self._record, self.index.tolist())

    def changes(self) -> list[tuple[bytes, bytes | None]]:
        """Key and value of each record of a compacted topic, where all have a key."""
        rows: list[list[int]] = self.index[:, KEY : VALUE_END + 1].tolist()
        data = self.data
        return [(data[key:key_end], self._part(value, value_end)) for key, key_end, value, value_end in rows]

    def part(self, start: int, end: int | None = None) -> "Records":
        """The records from place ``start`` up to ``end``."""
        return Records(self.data, self.index[start:end])

    def record(self, place: int) -> PackedRecord:
        """The record at a place."""
        return self._record(*self.index[place].tolist())

    def _record(self, offset: int, timestamp: int, *spans: int) -> PackedRecord:
        key, value, headers = map(self._part, spans[::2], spans[1::2])
        return PackedRecord(offset, timestamp, key, value, _read_headers(headers or NO_RECORD_HEADERS))

    def _part(self, start: int, end: int) -> bytes | None:
        return None if start < 0 else self.data[start:end]

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(N,) offsets in the partition."""
        return self.index[:, OFFSET]

    @property
    def timestamps_ms(self) -> NDArray[np.int64]:
        """(N,) record times."""
        return self.index[:, TIMESTAMP]

    @property
    def last_offset(self) -> int:
        """Of the last record, where there is one."""
        return int(self.index[-1, OFFSET])


def _packed_headers(headers: Headers | None) -> bytes:
    if not headers:
        return NO_RECORD_HEADERS
    if headers == JSON_HEADERS:
        return JSON_RECORD_HEADERS
    return _pack_headers(headers)


def _pack_headers(headers: Headers) -> bytes:
    packed = bytearray(_varint(len(headers)))
    for name, value in headers:
        for part in (name.encode(errors="replace"), value):
            packed += _varint(-1) if part is None else _varint(len(part)) + part
    return bytes(packed)


def _varint(value: int) -> bytes:
    """Zigzag, seven bits a byte, the lowest first."""
    left = value << 1 if value >= 0 else (-value << 1) - 1
    encoded = bytearray()
    while left > 0x7F:
        encoded.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes([*encoded, left])


def _read_headers(packed: bytes) -> list[tuple[str, bytes]]:
    """Names and values; U+FFFD stands for what is no UTF-8 of a name."""
    if packed == NO_RECORD_HEADERS:
        return []
    if packed == JSON_RECORD_HEADERS:
        return list(JSON_HEADERS)
    count, at = _read_varint(packed, 0)
    parts: list[bytes | None] = []
    for _ in range(2 * count):
        length, at = _read_varint(packed, at)
        parts.append(None if length < 0 else packed[at : at + length])
        at += max(length, 0)
    names, values = parts[::2], cast(list[bytes], parts[1::2])
    return [((name or b"").decode(errors="replace"), value) for name, value in zip(names, values, strict=True)]


def _read_varint(packed: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while packed[at] > 0x7F:
        value |= (packed[at] & 0x7F) << shift
        shift += 7
        at += 1
    value |= packed[at] << shift
    return value >> 1 ^ -(value & 1), at + 1


NO_RECORD_HEADERS: Final = _pack_headers([])
JSON_RECORD_HEADERS: Final = _pack_headers(JSON_HEADERS)
MSGPACK_RECORD_HEADERS: Final = _pack_headers([("content-type", b"application/msgpack")])
"""Headers of nearly all events, as records have them."""

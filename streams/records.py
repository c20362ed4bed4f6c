"""Records whose header names are not UTF-8. Brokers take them; aiokafka's parser ends with a ``UnicodeDecodeError``.

Every owner of the partition would end at the same offset. So where the parser gives up, what is left of that fetch is
read again in Python, with U+FFFD for what is no UTF-8: aiokafka could not send such a name on either. The source topic
still has the bytes.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportGeneralTypeIssues=false, reportIncompatibleMethodOverride=false
# aiokafka keeps its fetcher and its parsers to itself, and calls the latter final.

from collections import deque
from collections.abc import Iterable
from itertools import dropwhile
from typing import Any

from aiokafka.record.default_records import DefaultRecord, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy
from aiokafka.record.util import decode_varint

__all__ = ["FetchedRecords", "next_record"]


class FetchedRecords(MemoryRecords):
    """aiokafka's view of what was fetched of a partition, with the bytes, which the compiled parser hides."""

    def __init__(self, fetched: bytes) -> None:
        super().__init__(fetched)  # pyright: ignore[reportAbstractUsage]  # typed as a protocol's method
        self.fetched = fetched


def next_record(self: Any) -> Any:
    """For aiokafka's ``PartitionRecords.__next__``, which it is; goes on where a header's name is not UTF-8."""
    try:
        return next(self._records_iterator)
    except StopIteration:
        self._records_iterator = None  # it refers to self
        raise
    except UnicodeDecodeError:
        if not isinstance(self._records, FetchedRecords):
            raise
        self._records = _Rest(self._records.fetched, self.next_fetch_offset)
        self._records_iterator = self._unpack_records()
        return next(self)


class _Rest:
    """The batches of a fetch that are not wholly below ``offset``; takes the place of a ``MemoryRecords``."""

    def __init__(self, fetched: bytes, offset: int) -> None:
        batches: Iterable[Any] = iter(_Batches(fetched).next_batch, None)
        self._left = deque(dropwhile(lambda batch: batch.next_offset <= offset, batches))

    def has_next(self) -> bool:
        return bool(self._left)

    def next_batch(self) -> Any:
        return self._left.popleft()


class _Batches(_MemoryRecordsPy):
    def next_batch(self, *_: int) -> Any:
        batch = self._next_slice
        if batch is None or batch[self.MAGIC_OFFSET] < 2:  # a batch of before Kafka 0.11 has no headers
            return super().next_batch()
        self._cache_next()
        return _LenientBatch(batch)


class _LenientBatch(_DefaultRecordBatchPy):
    """A batch whose records may have header names of any bytes; whatever else is wrong is an error as ever."""

    def _read_msg(self, *_: Any) -> Any:
        length, start = decode_varint(self._buffer, self._pos)
        timestamp_delta, at = decode_varint(self._buffer, start + 1)  # behind the attributes
        offset_delta, at = decode_varint(self._buffer, at)
        key, at = self._read_bytes(at)
        value, at = self._read_bytes(at)
        headers, at = self._read_headers(at)
        if at - start != length:
            raise ValueError(f"a record of {length} bytes ends after {at - start}")
        self._pos = at
        timestamp = self.max_timestamp if self.timestamp_type else self.first_timestamp + timestamp_delta
        return DefaultRecord(self.base_offset + offset_delta, timestamp, self.timestamp_type, key, value, headers)

    def _read_headers(self, at: int) -> tuple[list[tuple[str, bytes | None]], int]:
        count, at = decode_varint(self._buffer, at)
        headers: list[tuple[str, bytes | None]] = []
        for _ in range(count):
            name, at = self._read_bytes(at)
            value, at = self._read_bytes(at)
            headers.append(((name or b"").decode(errors="replace"), value))
        return headers, at

    def _read_bytes(self, at: int) -> tuple[bytes | None, int]:
        length, at = decode_varint(self._buffer, at)
        return (None, at) if length < 0 else (bytes(self._buffer[at : at + length]), at + length)

"""Fetched records: a batch's at once, and whatever the names of their headers are (aiokafka 0.14).

- aiokafka takes a batch apart record by record, through two generators and a method, and copies each into a dataclass
  of eleven fields: several times what its compiled parser needs. Here a batch is one list of what that parser makes.
- Brokers take header names that are not UTF-8; the parser ends with a ``UnicodeDecodeError``, and every owner of the
  partition would at the same offset. So where it gives up, what is left of that fetch is read again in Python, with
  U+FFFD for what is no UTF-8: aiokafka could not send such a name on either. The source topic still has the bytes.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportGeneralTypeIssues=false, reportIncompatibleMethodOverride=false
# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false
# aiokafka keeps its fetcher and its parsers to itself, and calls the latter final.

from bisect import bisect_left
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import dropwhile
from operator import attrgetter
from typing import Any, Final

from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.record.default_records import DefaultRecord, _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy
from aiokafka.record.util import decode_varint_py

__all__ = ["hand_on_parsed_records", "parsed_records_handed_on"]

_getall_one_by_one: Final = FetchResult.getall


def hand_on_parsed_records() -> None:
    """Let every aiokafka consumer of this process hand on the parser's records, which have what ``Record`` asks for."""
    fetcher.MemoryRecords, fetcher.PartitionRecords = _FetchedRecords, _FetchedPartition
    FetchResult.getall = _getall


@contextmanager
def parsed_records_handed_on() -> Generator[None]:
    """The same, for as long as the block runs: in a process with consumers that others have made."""
    before = fetcher.MemoryRecords, fetcher.PartitionRecords, FetchResult.getall
    hand_on_parsed_records()
    try:
        yield
    finally:
        fetcher.MemoryRecords, fetcher.PartitionRecords, FetchResult.getall = before


def _getall(self: Any, max_records: int | None = None) -> list[Any]:
    """``FetchResult.getall``, which it calls for what was fetched before it took its place."""
    of_partition = self._partition_records
    if not isinstance(of_partition, _FetchedPartition):
        return _getall_one_by_one(self, max_records)
    if not self.check_assignment(self._topic_partition):
        return []
    records = of_partition.take(max_records)
    self._update_position()
    if max_records is None or len(records) < max_records:
        self._partition_records = None
    return records


class _FetchedPartition(PartitionRecords):
    """aiokafka's view of the records of a fetch that a consumer is to have, of which it makes a list a batch here.

    One that is left half taken holds the rest of its batch until the collector comes by; a worker takes all.
    """

    def __init__(self, *args: Any) -> None:
        self._run: list[Any] = []
        """Records of one batch, of which those before ``_at`` were handed on."""
        self._at = 0
        super().__init__(*args)

    def __next__(self) -> Any:
        record = self.take(1)
        if not record:
            raise StopIteration
        return record[0]

    def take(self, records_max: int | None) -> list[Any]:
        """The next records; fewer than ``records_max`` only where the fetch is at its end."""
        taken: list[Any] = []
        while (records_max is None or len(taken) < records_max) and self._has_run():
            end = len(self._run) if records_max is None else self._at + records_max - len(taken)
            taken += self._run[self._at : end]
            self._at = min(end, len(self._run))
            self.next_fetch_offset = self._run[self._at - 1].offset + 1
        return taken

    def _has_run(self) -> bool:
        if self._at == len(self._run):
            self._run, self._at = self._next_run(), 0
        return bool(self._run)

    def _next_run(self) -> list[Any]:
        if self._records_iterator is None:
            return []
        iterator: Any = self._records_iterator
        try:
            return next(iterator)
        except StopIteration:
            self._records_iterator = None  # it refers to self
            return []
        except UnicodeDecodeError:
            if not isinstance(self._records, _FetchedRecords):
                raise
            self._records = _Rest(self._records.fetched, self.next_fetch_offset)
            self._records_iterator = self._unpack_records()
            return self._next_run()

    def _consumer_record(self, tp: Any, record: "_Run") -> list[Any]:
        records, first = record.records, self.next_fetch_offset
        if records[0].offset >= first:
            return records
        return records[bisect_left(records, first, key=attrgetter("offset")) :]


class _Run:
    """A batch that goes for its only record, with the offset of its last one."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self.records: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:  # of a control batch
        return next(self._batch)

    def __iter__(self) -> "Iterator[_Run]":
        self.records = list(self._batch)
        return iter([self] if self.records else [])

    @property
    def offset(self) -> int:
        return self.records[-1].offset


class _FetchedRecords(MemoryRecords):
    """aiokafka's view of what was fetched of a partition, with the bytes, which the compiled parser hides."""

    def __init__(self, fetched: bytes) -> None:
        super().__init__(fetched)  # pyright: ignore[reportAbstractUsage]  # typed as a protocol's method
        self.fetched = fetched

    def next_batch(self, *args: Any) -> Any:
        return _Run(super().next_batch(*args))  # pyright: ignore[reportAbstractUsage]  # as above


class _Rest:
    """The batches of a fetch that are not wholly below ``offset``; takes the place of a ``MemoryRecords``."""

    def __init__(self, fetched: bytes, offset: int) -> None:
        batches: Iterable[Any] = iter(_Batches(fetched).next_batch, None)
        self._left = deque(dropwhile(lambda batch: batch.next_offset <= offset, batches))

    def has_next(self) -> bool:
        return bool(self._left)

    def next_batch(self) -> Any:
        return _Run(self._left.popleft())


class _Batches(_MemoryRecordsPy):
    def next_batch(self, *_: int) -> Any:
        batch = self._next_slice
        if batch is None or batch[self.MAGIC_OFFSET] < 2:  # a batch of before Kafka 0.11 has no headers
            return super().next_batch()
        self._cache_next()
        return _LenientBatch(batch)


class _LenientBatch(_DefaultRecordBatchPy):
    """A batch whose records may have header names of any bytes; whatever else is wrong is an error as ever.

    Lengths are read in Python: aiokafka's compiled reader of them goes beyond the end of a batch that lies.
    """

    def _read_msg(self, *_: Any) -> Any:
        length, start = decode_varint_py(self._buffer, self._pos)
        timestamp_delta, at = decode_varint_py(self._buffer, start + 1)  # behind the attributes
        offset_delta, at = decode_varint_py(self._buffer, at)
        key, at = self._read_bytes(at)
        value, at = self._read_bytes(at)
        headers, at = self._read_headers(at)
        if at - start != length:
            raise ValueError(f"a record of {length} bytes ends after {at - start}")
        self._pos = at
        timestamp = self.max_timestamp if self.timestamp_type else self.first_timestamp + timestamp_delta
        return DefaultRecord(self.base_offset + offset_delta, timestamp, self.timestamp_type, key, value, headers)

    def _read_headers(self, at: int) -> tuple[list[tuple[str, bytes | None]], int]:
        count, at = decode_varint_py(self._buffer, at)
        if count < 0:
            raise ValueError(f"{count} headers")
        headers: list[tuple[str, bytes | None]] = []
        for _ in range(count):
            name, at = self._read_bytes(at)
            value, at = self._read_bytes(at)
            headers.append(((name or b"").decode(errors="replace"), value))
        return headers, at

    def _read_bytes(self, at: int) -> tuple[bytes | None, int]:
        length, at = decode_varint_py(self._buffer, at)
        return (None, at) if length < 0 else (bytes(self._buffer[at : at + length]), at + length)

"""Fetched records: a fetch's of a partition in one piece, and whatever the names of their headers are (aiokafka 0.14).

- aiokafka makes an object of eleven fields of each record, through two generators, a method and a parser that makes
  another. Here all of them are one ``Records``: the bytes, and where in them each is.
- Brokers take header names that are not UTF-8. aiokafka's parser ends with a ``UnicodeDecodeError``, and every owner
  of the partition would at the same offset. ``Records`` reads a name when it is asked for one, whatever it is.
- It looks at batch after batch; under little load a batch is a record or two. Those at the front of a fetch that are
  just records are read at once.
- A log from before Kafka 0.11 has batches of two formats, of which aiokafka's compiled parser sees the first.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportIncompatibleMethodOverride=false
# pyright: reportAttributeAccessIssue=false, reportUnknownParameterType=false
# aiokafka keeps its fetcher to itself.

import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from aiokafka import codec
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.memory_records import _MemoryRecordsPy
from aiokafka.record.util import calc_crc32c

from operators.records import Records
from streams.record_batches import index_records

__all__ = ["hand_on_packed_records", "packed_records_handed_on"]

_getall_one_by_one: Final = FetchResult.getall

_BATCH_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_MAGIC_AT: Final = 16
_MAGIC: Final = 2
"""Of the format with headers, which brokers write since Kafka 0.11."""
_CODEC: Final = 0x07
_LOG_APPEND_TIME: Final = 0x08
_TRANSACTION_OR_CONTROL: Final = 0x30
_CHECKED_FROM: Final = 21
"""Where the bytes begin of which a batch has a checksum."""
_COLUMNS: Final = 8
_UNPACK: Final[dict[int, Callable[[Any], Any]]] = {
    1: codec.gzip_decode,
    2: codec.snappy_decode,
    3: codec.lz4_decode,
    4: codec.zstd_decode,
}


def hand_on_packed_records() -> None:
    """Let every aiokafka consumer of this process hand on ``Records``."""
    fetcher.MemoryRecords, fetcher.PartitionRecords = _FetchedRecords, _FetchedPartition
    FetchResult.getall = _getall


@contextmanager
def packed_records_handed_on() -> Generator[None]:
    """The same, for as long as the block runs: in a process with consumers that others have made."""
    before = fetcher.MemoryRecords, fetcher.PartitionRecords, FetchResult.getall
    hand_on_packed_records()
    try:
        yield
    finally:
        fetcher.MemoryRecords, fetcher.PartitionRecords, FetchResult.getall = before


def _getall(self: Any, max_records: int | None = None) -> Any:
    """``FetchResult.getall``, which it calls for what was fetched before it took its place."""
    of_partition = self._partition_records
    if not isinstance(of_partition, _FetchedPartition):
        return _getall_one_by_one(self, max_records)
    if not self.check_assignment(self._topic_partition):
        return _NONE
    records = of_partition.take(max_records)
    self._update_position()
    if max_records is None or len(records) < max_records:
        self._partition_records = None
    return records


class _FetchedPartition(PartitionRecords):
    """aiokafka's view of the records of a fetch that a consumer is to have.

    One that is left half taken holds the rest of its batch until the collector comes by; a worker takes all.
    """

    def __init__(self, *args: Any) -> None:
        self._run = _NONE
        """Records that were read and not handed on yet."""
        self._is_begun = False
        super().__init__(*args)

    def __next__(self) -> Any:
        records = self.take(1)
        if not len(records):
            raise StopIteration
        return records.record(0)

    def take(self, records_max: int | None) -> Records:
        """The next records; fewer than ``records_max`` only where the fetch is at its end."""
        taken: list[Records] = [_NONE]
        left = records_max
        while (left is None or left > 0) and self._has_run():
            taken.append(self._run.part(0, left))
            self._run = self._run.part(len(taken[-1]))
            self.next_fetch_offset = taken[-1].last_offset + 1
            left = None if left is None else left - len(taken[-1])
        return Records.joined(taken[1:] or taken)

    def _has_run(self) -> bool:
        if not len(self._run):
            self._run = self._next_run()
        return len(self._run) > 0

    def _next_run(self) -> Records:
        if not self._is_begun:
            self._is_begun = True
            run = self._from_position(self._records.begin(self._check_crcs))
            if len(run):
                return run
        if self._records_iterator is None:
            return _NONE
        iterator: Any = self._records_iterator
        try:
            return next(iterator)
        except StopIteration:
            self._records_iterator = None  # it refers to self
            return _NONE

    def _consumer_record(self, tp: Any, record: "_Run") -> Records:
        return self._from_position(record.records)

    def _from_position(self, records: Records) -> Records:
        return records.part(int(np.searchsorted(records.offsets, self.next_fetch_offset)))


class _Run:
    """A batch that goes for its only record, with the offset of its last one."""

    def __init__(self, batch: Any, fetched: bytes, start: int, end: int) -> None:
        """``batch`` is what ``fetched`` has from ``start`` up to ``end``."""
        self._batch = batch
        self._place = fetched, start, end
        self.records = _NONE

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:  # of a control batch
        return next(self._batch)

    def __iter__(self) -> "Iterator[_Run]":
        fetched, start, _ = self._place
        self.records = _records(*self._place) if fetched[start + _MAGIC_AT] == _MAGIC else Records.of(self._batch)
        return iter([self] if len(self.records) else [])

    @property
    def offset(self) -> int:
        return self.records.last_offset


def _records(data: bytes, start: int, end: int) -> Records:
    """The records of the batch that is there.

    Raises:
        CorruptRecordException: its lengths do not add up.
        UnsupportedCodecError: it is compressed in a way that is not known here, or whose library is missing.
    """
    offset, _, _, _, _, attributes, _, first_ms, last_ms, _, _, _, count = _BATCH_HEADER.unpack_from(data, start)
    start += _BATCH_HEADER.size
    if attributes & _CODEC:
        data = _unpacked(data[start:end], attributes & _CODEC)
        start, end = 0, len(data)
    is_sound = 0 <= count <= end - start
    index = np.empty((count if is_sound else 0, _COLUMNS), np.int64)
    if not (is_sound and index_records(data, start, end, offset, first_ms, index)):
        raise CorruptRecordException(f"the batch at offset {offset} is no batch of {count} records")
    records = Records(data, index)
    if attributes & _LOG_APPEND_TIME:
        records.timestamps_ms[:] = last_ms
    return records


def _plain_records(data: bytes, start: int, end: int, check_crcs: bool) -> Records | None:
    """``_records`` where the batch is nothing else; None where aiokafka has to look at it, or to refuse it."""
    if end - start < _BATCH_HEADER.size or data[start + _MAGIC_AT] != _MAGIC:
        return None
    offset, _, _, _, checksum, attributes, last_delta, *_ = _BATCH_HEADER.unpack_from(data, start)
    if attributes & _TRANSACTION_OR_CONTROL:
        return None
    if check_crcs and calc_crc32c(data[start + _CHECKED_FROM : end]) != checksum:
        return None
    try:
        records = _records(data, start, end)
    except (CorruptRecordException, UnsupportedCodecError):
        return None
    # Where compaction took the last ones, the next offset is not that behind the last record.
    return records if len(records) and records.last_offset == offset + last_delta else None


def _unpacked(data: bytes, codec_number: int) -> bytes:
    if codec_number not in _UNPACK:
        raise UnsupportedCodecError(f"compression codec {codec_number} is none of Kafka's")
    try:
        return _UNPACK[codec_number](data)
    except NotImplementedError as error:  # aiokafka's word for a library that is missing
        raise UnsupportedCodecError(str(error)) from error


class _FetchedRecords(_MemoryRecordsPy):  # pyright: ignore[reportGeneralTypeIssues]  # final, says its type
    """aiokafka's view of what was fetched of a partition, with the place of each batch.

    Of the two it has this one looks at each batch for its format, and the compiled one at the first for all.
    """

    def __init__(self, fetched: bytes) -> None:
        self._at = 0
        super().__init__(fetched)

    def begin(self, check_crcs: bool) -> Records:
        """The records of the batches that are nothing else, up to the first other one; ``next_batch`` goes on there."""
        parts: list[Records] = [_NONE]
        while self._next_slice is not None:
            end = self._at + len(self._next_slice)
            records = _plain_records(self._buffer, self._at, end, check_crcs)
            if records is None:
                break
            parts.append(records)
            self._at = end
            self._cache_next()
        return Records.joined(parts[1:] or parts)

    def next_batch(self, *_: int) -> Any:
        start = self._at
        self._at += len(self._next_slice or b"")
        batch = super().next_batch()
        return None if batch is None else _Run(batch, self._buffer, start, self._at)


_NONE: Final = Records.of([])

"""Records found in a batch: those that aiokafka's parser finds, and nothing beyond the end whatever the bytes say."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators.records import PackedRecord, Records
from streams.record_batches import index_records
from tests.wall import Wall

HEADER_BYTES = 61
FIRST_MS = 1_700_000_000_000
UNSET = -99

LENGTHS = st.sampled_from([63, 64, 8_191, 8_192, 40_000])
PARTS = st.none() | st.binary(max_size=12) | LENGTHS.map(bytes)
HEADERS = st.lists(st.tuples(st.text(max_size=6), PARTS), max_size=4)


class Appended(NamedTuple):
    """What a batch is built of."""

    key: bytes | None = b"k"
    value: bytes | None = b"v"
    headers: Sequence[tuple[str, bytes | None]] = ()
    ms_later: int = 0


APPENDED = st.builds(Appended, PARTS, PARTS, HEADERS, st.integers(-(2**40), 2**40))
SMALL = {
    "one record": [Appended()],
    "of nothing": [Appended(None, None)],
    "with headers": [Appended(b"key", b"value", [("a", b"x"), ("", None)]), Appended(b"", None, [("b", b"")], -1)],
    "of three": [Appended(ms_later=300), Appended(b"k2", b"v" * 70, ms_later=70_000), Appended(None, b"")],
}


def batch_of(records: list[Appended]) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 24)
    for place, one in enumerate(records):
        assert builder.append(place, FIRST_MS + one.ms_later, one.key, one.value, list(one.headers)) is not None
    return bytes(builder.build())


def indexed(
    data: bytes, start: int, end: int, count: int, first_offset: int = 0, first_ms: int = 0
) -> tuple[bool, NDArray[np.int64]]:
    index = np.full((count, 8), UNSET, np.int64)
    return index_records(data, start, end, first_offset, first_ms, index), index


def found(data: bytes, start: int, end: int, count: int, first_offset: int = 0, first_ms: int = 0) -> Records | None:
    is_sound, index = indexed(data, start, end, count, first_offset, first_ms)
    return Records(data, index) if is_sound else None


def of_aiokafka(batch: bytes) -> list[PackedRecord]:
    return [
        PackedRecord(one.offset, one.timestamp, one.key, one.value, list(one.headers))
        for one in DefaultRecordBatch(batch)
    ]


def of_batch(batch: bytes, count: int) -> Records | None:
    head = DefaultRecordBatch(batch)
    return found(batch, HEADER_BYTES, len(batch), count, head.base_offset, head.first_timestamp)


@given(st.lists(APPENDED, min_size=1, max_size=8), st.integers(0, 2**40))
def test_records_are_those_that_aiokafka_finds(records: list[Appended], base_offset: int) -> None:
    batch = base_offset.to_bytes(8, "big") + batch_of(records)[8:]
    index = of_batch(batch, len(records))
    assert index is not None
    assert list(index) == of_aiokafka(batch)


@given(st.lists(APPENDED, min_size=1, max_size=4), st.binary(max_size=9), st.binary(max_size=9))
def test_records_are_found_between_other_bytes(records: list[Appended], before: bytes, behind: bytes) -> None:
    inner = batch_of(records)[HEADER_BYTES:]
    index = found(before + inner + behind, len(before), len(before + inner), len(records))
    alone = found(inner, 0, len(inner), len(records))
    assert index is not None
    assert alone is not None
    assert list(index) == list(alone)


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_that_is_cut_is_refused_though_the_rest_lies_behind_it(name: str) -> None:
    inner, count = batch_of(SMALL[name])[HEADER_BYTES:], len(SMALL[name])
    for end in range(len(inner)):
        assert found(inner, 0, end, count) is None
        assert found(inner[:end], 0, end, count) is None
    assert found(inner, 0, len(inner), count) is not None


@pytest.mark.parametrize("name", SMALL)
def test_another_number_of_records_is_refused(name: str) -> None:
    inner, count = batch_of(SMALL[name])[HEADER_BYTES:], len(SMALL[name])
    for other in {0, 1, count - 1, count + 1, 1_000} - {count}:
        assert found(inner, 0, len(inner), other) is None
    assert found(b"", 0, 0, 0) is not None
    assert found(b"", 0, 0, 1) is None


def mutants(inner: bytes) -> Iterator[bytes]:
    for at in range(len(inner)):
        for byte in range(256):
            yield inner[:at] + bytes([byte]) + inner[at + 1 :]


@pytest.mark.parametrize("name", SMALL)
def test_of_a_damaged_batch_no_part_lies_outside_of_it(name: str) -> None:
    inner, count = batch_of(SMALL[name])[HEADER_BYTES:], len(SMALL[name])
    before, sound = b"\x06\x00", 0
    for mutant in mutants(inner):
        end = len(before + mutant)
        answers = [indexed(before + mutant + behind, 2, end, count) for behind in (b"", b"\x00" * 99, b"\x02" * 99)]
        assert len({(is_sound, index.tobytes()) for is_sound, index in answers}) == 1
        is_sound, index = answers[0]
        if is_sound:
            sound += 1
            check_spans(index, 2, end)
            assert len(list(Records(before + mutant, index))) == count
    assert 0 < sound < 256 * len(inner)


@pytest.mark.parametrize("name", SMALL)
def test_nothing_behind_a_damaged_batch_is_read(name: str) -> None:
    inner, count, wall = batch_of(SMALL[name])[HEADER_BYTES:], len(SMALL[name]), Wall()
    for damaged in [*(inner[:end] for end in range(len(inner))), *mutants(inner)]:
        indexed(wall.before(damaged), 0, len(damaged), count)


def check_spans(index: Any, start: int, end: int) -> None:
    for row in index[:, 2:].tolist():
        parts = list(zip(row[::2], row[1::2], strict=True))
        given = [part for part in parts if part != (-1, -1)]
        assert parts[2] in given
        bounds = [start, *(bound for part in given for bound in part), end]
        assert bounds == sorted(bounds)
        start = parts[2][1]


@pytest.mark.parametrize("name", SMALL)
def test_damaged_batches_are_taken_or_refused_as_by_aiokafka(name: str) -> None:
    whole, count = batch_of(SMALL[name]), len(SMALL[name])
    for mutant in mutants(whole[HEADER_BYTES:]):
        batch = whole[:HEADER_BYTES] + mutant
        records = of_batch(batch, count)
        if records is None or not is_read_otherwise_by_aiokafka(records):
            assert (None if records is None else list(records)) == or_none(batch), mutant


def or_none(batch: bytes) -> list[PackedRecord] | None:
    try:
        return of_aiokafka(batch)
    except (CorruptRecordException, UnicodeDecodeError):
        return None


def is_read_otherwise_by_aiokafka(records: Records) -> bool:
    """Whether there are attributes that are no varint of one byte, a name that is no UTF-8, or one that is null."""
    starts = [HEADER_BYTES, *records.index[:-1, -1].tolist()]
    attributes = [records.data[start + 1 + (records.data[start] > 0x7F)] for start in starts]
    return max(attributes) > 0x7F or header_bytes(records) != header_bytes(Records.of(list(records)))


def header_bytes(records: Records) -> list[bytes]:
    return [records.data[start:end] for start, end in records.index[:, -2:].tolist()]


LONG_ZERO, HUGE = b"\x80" * 9 + b"\x00", b"\xfe" + b"\xff" * 8 + b"\x01"


@pytest.mark.parametrize("length", [LONG_ZERO, HUGE, b"\x80" * 10 + b"\x00", b"\x80" * 11])
@pytest.mark.parametrize("place", range(5))
def test_what_is_found_behind_a_long_length_can_be_read(length: bytes, place: int) -> None:
    check_length(length, place)


@pytest.mark.parametrize("place", range(5))
def test_what_is_found_behind_a_length_of_more_than_64_bits_can_be_read(place: int) -> None:
    check_length(b"\x80" * 9 + b"\x02", place)


def check_length(length: bytes, place: int) -> None:
    """``length`` is that of the key, the value, the headers, a name or what the name stands for."""
    lengths = [b"\x00", b"\x00", b"\x02", b"\x00", b"\x00"]
    lengths[place] = length
    inner = b"\x00\x00\x00" + b"".join(lengths[: 5 if place > 2 else 3])
    whole = bytes([2 * len(inner)]) + inner
    records = found(whole, 0, len(whole), 1)
    if records is not None:
        assert list(records) == [PackedRecord(0, 0, b"", b"", [("", b"")] if place > 2 else [])]


@pytest.mark.parametrize("count", [b"\x01", b"\x03", b"\xff\xff\xff\xff\x0f"])
def test_fewer_headers_than_none_are_refused(count: bytes) -> None:
    inner = b"\x00\x00\x00\x01\x01" + count
    assert found(bytes([2 * len(inner)]) + inner, 0, 1 + len(inner), 1) is None


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (6, 5), (0, 11), (11, 11), (-(2**62), 2**62)])
def test_a_part_that_there_is_not_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="no such part"):
        index_records(b"\x00" * 10, start, end, 0, 0, np.empty((1, 8), np.int64))


READ_ONLY = np.empty((2, 8), np.int64)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    "index",
    [
        np.empty((1, 7), np.int64),
        np.empty((1, 9), np.int64),
        np.empty((0, 0), np.int64),
        np.empty((1, 8), np.int32),
        np.empty((1, 8), np.float64),
        np.empty((1, 16), np.int64)[:, ::2],
        np.empty((2, 8), np.int64, "F"),
        np.empty(8, np.int64),
        READ_ONLY,
    ],
)
def test_an_index_that_is_none_is_refused(index: Any) -> None:
    with pytest.raises(ValueError):  # those of Cython's views are worded by the view
        index_records(b"\x00" * 10, 0, 10, 0, 0, index)

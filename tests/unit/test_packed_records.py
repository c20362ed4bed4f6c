"""Records in one piece: what went in comes out, whole, in parts and joined, and headers are as Kafka packs them."""

from typing import Any

import numpy as np
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import example, given
from hypothesis import strategies as st

from operators.records import (
    JSON_RECORD_HEADERS,
    MSGPACK_RECORD_HEADERS,
    NO_RECORD_HEADERS,
    PackedRecord,
    Records,
)
from operators.wire import JSON_HEADERS
from streams.record_batches import index_records
from tests.fakes import FakeRecord
from tests.raw_names import RAW_NAME, READ_NAME, STAND_IN

MSGPACK_HEADERS = [("content-type", b"application/msgpack")]
BATCH_HEADER_BYTES = 61
TIME_MS = 1_700_000_000_000

LENGTHS = st.sampled_from([63, 64, 65, 127, 128, 8_191, 8_192, 70_000])
"""Around those at which a length takes one byte more."""
PARTS = st.none() | st.binary(max_size=20) | LENGTHS.map(bytes)
NAMES = st.text(max_size=8) | LENGTHS.map(lambda count: "é" * (count // 2) + "a" * (count % 2))
HEADERS = (
    st.lists(st.tuples(NAMES, PARTS), max_size=4)
    | st.sampled_from([JSON_HEADERS, MSGPACK_HEADERS]).map(list)
    | LENGTHS.map(lambda count: [("h", b"")] * (count % 8_193))
)
RECORDS = st.builds(PackedRecord, st.integers(0, 2**62), st.integers(-1, 2**50), PARTS, PARTS, HEADERS)


@given(st.lists(RECORDS, max_size=5))
@example([])
@example([PackedRecord(2**63 - 1, -1, None, None, []), PackedRecord(0, 0, b"", b"", [("", None), ("", b"")])])
def test_what_was_packed_is_read(records: list[PackedRecord]) -> None:
    packed = Records.of(records)
    assert list(packed) == records
    assert [packed.record(place) for place in range(len(packed))] == records
    assert packed.offsets.tolist() == [record.offset for record in records]
    assert packed.timestamps_ms.tolist() == [record.timestamp for record in records]
    assert not records or packed.last_offset == records[-1].offset


def test_packed_records_are_not_packed_again() -> None:
    packed = Records.of([PackedRecord(1, 2, b"k", b"v", [])])
    assert Records.of(packed) is packed


def test_a_record_without_a_time_is_of_1970_and_one_without_headers_has_none() -> None:
    without: Any = FakeRecord(3, b"k", b"v")._replace(headers=None)
    assert list(Records.of([without, FakeRecord(4, None, None)])) == [
        PackedRecord(3, 0, b"k", b"v", []),
        PackedRecord(4, 0, None, None, []),
    ]


@given(st.lists(RECORDS, max_size=6), st.integers(0, 7), st.none() | st.integers(0, 7))
def test_a_part_has_the_records_between_its_bounds(records: list[PackedRecord], start: int, end: int | None) -> None:
    packed = Records.of(records)
    part = packed.part(start, end)
    assert list(part) == records[start:end]
    assert part.data is packed.data


@given(st.lists(st.lists(RECORDS, max_size=3), min_size=1, max_size=4))
def test_joined_parts_of_different_data_follow_each_other(lists: list[list[PackedRecord]]) -> None:
    parts = [Records.of(records) for records in lists]
    assert list(Records.joined(parts)) == [record for records in lists for record in records]
    assert [list(part) for part in parts] == lists


@given(st.lists(RECORDS, max_size=8), st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=4))
def test_joined_parts_of_the_same_data_share_it(records: list[PackedRecord], cuts: list[tuple[int, int]]) -> None:
    packed = Records.of(records)
    joined = Records.joined([packed.part(start, end) for start, end in cuts])
    assert list(joined) == [record for start, end in cuts for record in records[start:end]]
    assert joined.data is packed.data


@given(st.lists(RECORDS, max_size=4), st.lists(RECORDS, max_size=4))
def test_parts_of_the_same_and_of_other_data_are_joined(first: list[PackedRecord], second: list[PackedRecord]) -> None:
    one, other = Records.of(first), Records.of(second)
    joined = Records.joined([one.part(1), other.part(0, 2), one.part(0, 1)])
    assert list(joined) == [*first[1:], *second[:2], *first[:1]]


def test_a_name_that_is_no_utf8_is_read_with_replacement_characters() -> None:
    packed = Records.of([PackedRecord(0, 0, b"k", b"v", [("a", b"1"), (STAND_IN, b"x"), (STAND_IN, None)])])
    raw = Records(packed.data.replace(STAND_IN.encode(), RAW_NAME), packed.index)
    assert raw.record(0).headers == [("a", b"1"), (READ_NAME, b"x"), (READ_NAME, None)]


def test_a_name_that_has_no_utf8_is_packed_all_the_same() -> None:
    assert Records.of([PackedRecord(0, 0, None, None, [("a\ud800", b"x")])]).record(0).headers == [("a?", b"x")]


@given(st.lists(RECORDS, min_size=1, max_size=4))
def test_headers_are_packed_as_aiokafka_packs_them(records: list[PackedRecord]) -> None:
    packed, of_batch = Records.of(records), built(records)
    assert [headers_of(packed, place) for place in range(len(records))] == [
        headers_of(of_batch, place) for place in range(len(records))
    ]
    assert [one[1:] for one in of_batch] == [one._replace(timestamp=TIME_MS)[1:] for one in records]


@pytest.mark.parametrize(
    ("headers", "packed"),
    [
        ([], NO_RECORD_HEADERS),
        (JSON_HEADERS, JSON_RECORD_HEADERS),
        (tuple(JSON_HEADERS), JSON_RECORD_HEADERS),
        (MSGPACK_HEADERS, MSGPACK_RECORD_HEADERS),
    ],
)
def test_the_headers_of_nearly_all_events_are_known(headers: Any, packed: bytes) -> None:
    record = PackedRecord(0, 0, b"k", b"v", headers)
    assert headers_of(Records.of([record]), 0) == headers_of(built([record]), 0) == packed


def headers_of(records: Records, place: int) -> bytes:
    start, end = records.index[place, -2:].tolist()
    return records.data[start:end]


def built(records: list[PackedRecord]) -> Records:
    """What is found in a batch that aiokafka builds of them, one millisecond for all."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 24)
    for place, one in enumerate(records):
        assert builder.append(place, TIME_MS, one.key, one.value, list(one.headers)) is not None
    batch = bytes(builder.build())
    index = np.empty((len(records), 8), np.int64)
    assert index_records(batch, BATCH_HEADER_BYTES, len(batch), 0, TIME_MS, index)
    return Records(batch, index)

"""Fetched records: handed on as by aiokafka, batch by batch, and where header names are not UTF-8 too."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# aiokafka keeps its fetcher to itself, and does not type it.

import random
from collections.abc import Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.structs import ConsumerRecord, TopicPartition

from operators.records import Records
from streams.records import packed_records_handed_on
from tests.raw_names import RAW_NAME, READ_NAME, STAND_IN, put_raw_names

VIEW = TopicPartition("view", 0)
PLAIN: Any = (fetcher.PartitionRecords, fetcher.MemoryRecords)  # type: ignore[attr-defined]
BAD, GOOD = (STAND_IN, b"x"), ("trace", b"x")
_ABORT_KEY = b"\x00\x00\x00\x00"
_ATTRIBUTES_AT, _COUNT_AT = 22, 57


class Record(NamedTuple):
    """What a batch is built of."""

    key: bytes | None = b"k"
    value: bytes | None = b"v"
    timestamp_ms: int = 1_700_000_000_000
    headers: Sequence[tuple[str, bytes | None]] = ()


@pytest.fixture(autouse=True)
def handed_on() -> Iterator[None]:
    with packed_records_handed_on():
        yield


def batch(
    base_offset: int,
    records: Sequence[Record],
    *,
    producer: int = -1,
    control: bool = False,
    log_time: bool = False,
    compress: bool = False,
) -> bytes:
    """A batch as a broker stores it; of a transaction where it has a ``producer``."""
    builder = DefaultRecordBatchBuilder(2, 0, producer >= 0, producer, 0, 0, 1 << 20)
    for n, one in enumerate(records):
        builder.append(n, one.timestamp_ms, one.key, one.value, list(one.headers))
    built = builder.build()
    built[_ATTRIBUTES_AT] |= 0x20 * control | 0x08 * log_time
    return bytes(put_raw_names(bytes(built), base_offset=base_offset, compress=compress))


def fetched(
    *batches: bytes, offset: int = 0, aborted: Sequence[tuple[int, int]] = (), crcs: bool = True
) -> "fetcher.PartitionRecords":
    """What a consumer of committed records makes of a fetch from ``offset``."""
    records = fetcher.MemoryRecords(b"".join(batches))
    return fetcher.PartitionRecords(VIEW, records, list(aborted), offset, None, None, crcs, fetcher.READ_COMMITTED)


def offsets(records: "fetcher.PartitionRecords") -> list[int]:
    return [record.offset for record in records]


def test_aiokafkas_parser_ends_at_such_a_name() -> None:
    with pytest.raises(UnicodeDecodeError):
        list(DefaultRecordBatch(batch(0, [Record(headers=[BAD])])))


def test_the_bytes_are_as_a_broker_has_them() -> None:
    made = batch(7, [Record(headers=[BAD])])
    assert RAW_NAME in made
    assert DefaultRecordBatch(made).validate_crc()
    assert DefaultRecordBatch(made).base_offset == 7


@pytest.mark.parametrize("compress", [False, True])
def test_every_record_of_the_fetch_is_read_once(compress: bool) -> None:
    first, last = batch(10, [Record()] * 3), batch(20, [Record()] * 2)
    bad = [Record(headers=[GOOD]), Record(b"bad", b"whole", headers=[GOOD, BAD]), Record(headers=[BAD]), Record()]
    records = fetched(first, batch(13, bad, compress=compress), last, offset=10)
    read = list(records)
    assert [record.offset for record in read] == [10, 11, 12, 13, 14, 15, 16, 20, 21]
    assert (read[4].key, read[4].value, read[4].headers) == (b"bad", b"whole", [GOOD, (READ_NAME, b"x")])
    assert read[5].headers == [(READ_NAME, b"x")]
    assert read[3].headers == [GOOD]
    assert records.next_fetch_offset == 22


@pytest.mark.parametrize(("offset", "left"), [(0, [0, 1, 2, 3]), (1, [1, 2, 3]), (2, [2, 3]), (3, [3])])
def test_reading_begins_at_any_offset_of_the_batch(offset: int, left: list[int]) -> None:
    bad = [Record(), Record(headers=[BAD]), Record()]
    assert offsets(fetched(batch(0, bad), batch(3, [Record()]), offset=offset)) == left


def test_each_batch_of_a_fetch_may_have_one() -> None:
    assert offsets(fetched(*(batch(n, [Record(headers=[BAD])]) for n in range(5)))) == [0, 1, 2, 3, 4]


def test_a_batch_of_before_kafka_0_11_may_stand_behind_it() -> None:
    builder = LegacyRecordBatchBuilder(1, 0, 1 << 20)
    builder.append(0, 1_700_000_000_000, b"k", b"v")
    old = (1).to_bytes(8, "big") + bytes(builder.build())[8:]
    assert offsets(fetched(batch(0, [Record(headers=[BAD])]), old)) == [0, 1]
    assert offsets(fetched(old, batch(2, [Record()] * 2))) == [1, 2, 3]


def test_records_come_in_parts() -> None:
    records = fetched(batch(0, [Record(), Record(headers=[BAD]), Record()]), batch(3, [Record(headers=[BAD])]))
    read = [next(records).offset for _ in range(4)]
    assert read == [0, 1, 2, 3]
    with pytest.raises(StopIteration):
        next(records)


@pytest.mark.parametrize("bad", [0, 1, 3, 4, 5, 7])
def test_aborted_transactions_stay_unread(bad: int) -> None:
    def pair(place: int, base_offset: int, producer: int) -> bytes:
        return batch(base_offset, [Record(headers=[BAD] if place == bad else []), Record()], producer=producer)

    log = [
        pair(0, 0, producer=1),
        pair(1, 2, producer=2),
        batch(4, [Record(_ABORT_KEY)], producer=1, control=True),
        pair(3, 5, producer=1),
        pair(4, 7, producer=-1),
        pair(5, 9, producer=3),
        batch(11, [Record(_ABORT_KEY)], producer=3, control=True),
        pair(7, 12, producer=3),
    ]
    records = fetched(*log, aborted=[(1, 0), (3, 9)])
    assert offsets(records) == [2, 3, 5, 6, 7, 8, 12, 13]
    assert records.next_fetch_offset == 14


def test_only_such_records_may_be_left_of_a_compacted_batch_and_lie_below_the_position() -> None:
    compacted = bytearray(batch(0, [Record(headers=[BAD])]))
    compacted[26] = 2  # its last offset, whose record is gone
    records = fetched(bytes(compacted), offset=1, crcs=False)
    assert offsets(records) == []
    assert records.next_fetch_offset == 3


def test_all_else_is_read_as_by_aiokafkas_parser() -> None:
    rng = random.Random(1)
    for _ in range(50):
        whole = batch(3, [_drawn(rng) for _ in range(rng.randrange(1, 8))], log_time=rng.random() < 0.3)
        read = list(fetched(batch(2, [Record(headers=[BAD])]), whole))
        assert [_content(record) for record in read[1:]] == [_content(record) for record in DefaultRecordBatch(whole)]


def _drawn(rng: random.Random) -> Record:
    def some() -> bytes | None:
        return None if rng.random() < 0.2 else rng.randbytes(rng.choice((0, 1, 63, 64, 70, 9_000)))

    headers = [(rng.choice(("a", "ü" * 40, "")), some()) for _ in range(rng.randrange(3))]
    return Record(some(), some(), 1_700_000_000_000 + rng.randrange(-(10**9), 10**9), headers)


def _content(record: Any) -> tuple[Any, ...]:
    return record.offset, record.timestamp, record.key, record.value, record.headers


def test_damaged_bytes_are_an_error_as_ever() -> None:
    bad, later = batch(0, [Record(), Record(headers=[BAD])]), bytearray(batch(2, [Record(value=b"value")]))
    later[-3] ^= 1
    records = fetched(bad, bytes(later))
    assert [next(records).offset, next(records).offset] == [0, 1]
    with pytest.raises(CorruptRecordException):
        next(records)


@pytest.mark.parametrize(("before", "length"), [(1, 7), (1, 63), (7, 20)])
def test_a_length_that_lies_is_an_error_as_ever(before: int, length: int) -> None:
    made = bytearray(batch(0, [Record(headers=[BAD]), Record(value=b"value")]))
    made[made.index(b"value") - before] = 2 * length  # that of the value, also beyond the end, or of the record
    with pytest.raises(CorruptRecordException):
        list(fetched(bytes(made), crcs=False))


def test_a_length_far_beyond_the_end_is_an_error_as_ever() -> None:
    made = batch(0, [Record(headers=[BAD]), Record(key=b"a key")])
    lies = made.replace(b"\x0aa key", b"\xfe\xff\xff\xff\xff\x7e")
    assert lies != made
    with pytest.raises(CorruptRecordException):
        list(fetched(lies, crcs=False))


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("count", [-(2**31), -1, 0, 1, 2, 4, 1_000, 2**31 - 1])
def test_a_number_of_records_that_lies_is_an_error(count: int, compress: bool) -> None:
    made = bytearray(batch(0, [Record()] * 3, compress=compress))
    assert offsets(fetched(bytes(made), crcs=False)) == [0, 1, 2]
    made[_COUNT_AT : _COUNT_AT + 4] = count.to_bytes(4, "big", signed=True)
    with pytest.raises(CorruptRecordException):
        list(fetched(bytes(made), crcs=False))


@pytest.mark.parametrize("codec", [5, 6, 7])
def test_a_codec_that_there_is_not_is_an_error_as_ever(codec: int) -> None:
    made = bytearray(batch(0, [Record()]))
    made[_ATTRIBUTES_AT] |= codec
    with pytest.raises(UnsupportedCodecError):
        list(fetched(bytes(made), crcs=False))


@pytest.mark.parametrize("seed", range(8))
def test_records_positions_and_errors_are_those_of_aiokafka(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(40):
        log, first, end = _log(rng)
        calls = [rng.choice((None, 0, 1, 2, 3, 100)) for _ in range(9)]
        arguments = (log, rng.randrange(first), [(1, rng.randrange(end))], calls)
        assert _called(fetcher.PartitionRecords, fetcher.MemoryRecords, *arguments) == _called(*PLAIN, *arguments)


def _log(rng: random.Random) -> tuple[bytes, int, int]:
    """Batches, some of them in transactions, ends of these, and records that compaction took, perhaps damaged.

    Also how many records the first one has, where a fetch begins, and the end.
    """
    batches: list[bytes] = []
    first = end = 0
    for _ in range(rng.randrange(1, 6)):
        producer, count = rng.choice((-1, 1, 2)), rng.randrange(1, 5)
        control = rng.random() < (0.3 if producer >= 0 else 0.1)
        records = [Record(_ABORT_KEY)] if control else [Record(headers=[GOOD])] * count
        made = bytearray(batch(end, records, producer=producer, control=control, compress=rng.random() < 0.2))
        made[-1] ^= rng.random() < 0.1
        batches.append(bytes(made))
        first = first or len(records)
        end += len(records) + rng.randrange(3)
    return b"".join(batches), first, end


def _result(part: Any, offset: int) -> tuple[Any, SimpleNamespace]:
    """A ``FetchResult`` of it, and the consumer's position, which is ``offset``."""
    position = SimpleNamespace(position=offset, paused=False)
    position.consumed_to = partial(setattr, position, "position")
    assignment: Any = SimpleNamespace(active=True, state_value=lambda tp: position)
    return fetcher.FetchResult(VIEW, assignment=assignment, partition_records=part, backoff=0), position


def _called(
    of_partition: Any, records: Any, log: bytes, offset: int, aborted: list[tuple[int, int]], calls: list[int | None]
) -> list[tuple[list[int] | str, int, bool]]:
    """Offsets or error of every ``getall``, or ``getone`` for 0, with the position then and whether there is more."""
    part = of_partition(VIEW, records(log), list(aborted), offset, None, None, True, fetcher.READ_COMMITTED)
    result, position = _result(part, offset)
    answers: list[tuple[list[int] | str, int, bool]] = []
    for call in calls:
        try:
            got: Any = [result.getone()] if call == 0 else result.getall(call)
            answer: list[int] | str = _offsets(got)
        except CorruptRecordException as error:
            answer = str(error)
        answers.append((answer, position.position, result.has_more()))
        if not result.has_more():  # the fetcher lets go of it
            break
    return answers


def _offsets(got: Any) -> list[int]:
    return got.offsets.tolist() if isinstance(got, Records) else [record.offset for record in got if record is not None]


def test_nothing_is_handed_on_after_a_seek() -> None:
    result, _ = _result(fetched(batch(0, [Record()] * 3)), 1)
    assert len(result.getall()) == 0
    assert not result.has_more()


def test_what_was_fetched_before_is_left_to_aiokafka() -> None:
    of_partition, records = PLAIN
    plain = of_partition(VIEW, records(batch(0, [Record()])), [], 0, None, None, True, fetcher.READ_COMMITTED)
    result, _ = _result(plain, 0)
    assert [type(record) for record in result.getall()] == [ConsumerRecord]


def test_other_consumers_of_the_process_get_aiokafkas_records_again() -> None:
    untyped: Any = fetcher
    inside = untyped.MemoryRecords, untyped.PartitionRecords, untyped.FetchResult.getall
    assert (inside[1], inside[0]) != PLAIN
    with pytest.raises(RuntimeError, match="inside"), packed_records_handed_on():
        untyped.MemoryRecords = untyped.PartitionRecords = untyped.FetchResult.getall = None
        raise RuntimeError("inside")
    assert (untyped.MemoryRecords, untyped.PartitionRecords, untyped.FetchResult.getall) == inside

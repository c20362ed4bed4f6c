"""A restore gives what the changelog says, wherever it stops and however the fetches fall."""

# pyright: reportPrivateUsage=false

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.restore import Restored, Restorer
from streams.store import StateStore, StoreError
from tests.unit.restore_bench import (
    KEYS,
    TOPIC,
    FakeConsumer,
    Log,
    Record,
    SlowStore,
    Told,
    contents,
    filled,
    fold,
    restore,
    restoring,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    opened = StateStore(tmp_path / "state", block_cache_mb=8, write_buffer_mb=8)
    for partition in range(3):
        opened.open(partition)
    yield opened
    opened.close_all()


def test_everything_up_to_the_end_is_there_and_counted(store: StateStore) -> None:
    log: Log = {0: filled(0, 40), 1: filled(1, 25), 2: []}
    consumer, told = FakeConsumer(log, {0: 40, 1: 25, 2: 0}, [{0: 7}, {1: 3, 2: 1}, {0: 9, 1: 9}]), Told()
    restored = restore(store, consumer, [0, 1, 2], told)
    assert restored[:2] == (65, 3)
    assert [contents(store, n) for n in range(3)] == [fold(log[n]) for n in range(3)]
    assert [store.offset(n) for n in range(3)] == [39, 24, None]
    assert consumer.calls == ["start", "stop"]
    assert told.moves[-1] == (65, 65)
    assert all(done <= total for done, total in told.moves)
    assert told.ended == [restored]


def test_a_partition_with_files_reads_only_the_tail(store: StateStore) -> None:
    log: Log = {0: filled(0, 30)}
    store.write(0, [(record.key, record.value) for record in log[0][:20]], 19)
    assert restore(store, FakeConsumer(log, {0: 30}), [0]).records == 10
    assert contents(store, 0) == fold(log[0])
    assert restore(store, FakeConsumer(log, {0: 30}), [0]).records == 0


def test_without_partitions_no_client_is_made(store: StateStore) -> None:
    told = Told()

    def new() -> Any:
        raise AssertionError("a client was made")

    async def run() -> Restored:
        restorer = Restorer(store, TOPIC, new, told)
        restored = await restorer.run([], None)
        restorer.close()
        return restored

    assert asyncio.run(run()).records == 0
    assert told.ended == []


def test_the_end_is_that_of_the_beginning_and_offsets_without_a_record_are_passed(store: StateStore) -> None:
    # What others write meanwhile comes through the group; the last offset is a transaction's marker.
    log: Log = {0: [record for record in filled(0, 30) if record.offset % 3 and record.offset != 29]}
    ends = {0: 30}
    consumer = FakeConsumer(log, ends, [{0: 10}])

    async def run() -> Restored:
        restorer = Restorer(store, TOPIC, lambda: consumer, Told())  # type: ignore[arg-type, return-value]
        running = asyncio.create_task(restorer.run([0], None))
        await consumer.fetched.wait()
        ends[0] = 1_000_000_000
        restored = await asyncio.wait_for(running, 30)
        restorer.close()
        return restored

    consumer._then = 20
    assert asyncio.run(run()).records == len(log[0])
    assert contents(store, 0) == fold(log[0])
    assert store.offset(0) == 28


def test_a_gap_between_state_and_changelog_is_a_refusal_that_names_the_directory(store: StateStore) -> None:
    store.write(1, [(KEYS[0], b"1")], 4)
    with pytest.raises(StoreError, match=r"begins at 6, but .*ends at 4.*Delete") as refused:
        restore(store, FakeConsumer({1: filled(1, 10)}, {1: 10}, firsts={1: 6}), [1])
    assert str(store.path(1)) in str(refused.value)
    assert contents(store, 1) == {KEYS[0]: b"1"}


def test_the_first_record_after_the_state_may_be_the_first_of_the_changelog(store: StateStore) -> None:
    store.write(1, [(KEYS[0], b"1")], 5)
    log: Log = {1: filled(1, 4, since=6)}
    assert restore(store, FakeConsumer(log, {1: 10}, firsts={1: 6}), [1]).records == 4


def test_a_state_ahead_of_its_changelog_is_a_refusal(store: StateStore) -> None:
    store.write(1, [(KEYS[0], b"1")], 50)
    with pytest.raises(StoreError, match=r"partition 1 .*is ahead of its changelog"):
        restore(store, FakeConsumer({1: filled(1, 10)}, {1: 10}), [1])


def test_records_deleted_under_the_restore_are_a_refusal(store: StateStore) -> None:
    firsts: dict[int, int] = {}
    consumer = FakeConsumer({1: filled(1, 10)}, {1: 10}, [{1: 2}], firsts=firsts)
    begin, told = consumer.beginning_offsets, Told()

    async def beginning_offsets(tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        try:
            return await begin(tps)
        finally:
            firsts[1] = 5

    consumer.beginning_offsets = beginning_offsets  # type: ignore[method-assign]
    with pytest.raises(StoreError, match="partition 1 "):
        restore(store, consumer, [1], told)
    assert consumer.calls == ["start", "stop"]
    assert told.ended == [None]


def test_a_client_that_does_not_start_is_closed_and_its_error_told(store: StateStore) -> None:
    consumer, told = FakeConsumer({}, {}), Told()

    async def start() -> None:
        raise KafkaConnectionError("nobody there")

    consumer.start = start  # type: ignore[method-assign]
    with pytest.raises(KafkaConnectionError):
        restore(store, consumer, [0], told)
    assert consumer.calls == ["stop"]
    assert told.ended == [None]


def test_a_partition_that_does_not_move_is_told_once_a_second(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.restore._STALLED_S", 0.05)
    log: Log = {0: filled(0, 10), 1: filled(1, 10)}
    told: list[list[int]] = []
    times: list[float] = []

    def steps() -> Iterator[Mapping[int, int]]:
        yield {0: 10, 1: 4}
        while len(told) < 2:  # a transaction is open at offset 4 of partition 1
            time.sleep(0.01)
            yield {}

    consumer = FakeConsumer(log, {0: 10, 1: 10}, steps())

    async def on_stalled(partitions: Sequence[int]) -> None:
        told.append(list(partitions))
        times.append(time.monotonic())

    async def run() -> None:
        restorer = Restorer(store, TOPIC, lambda: consumer, Told())  # type: ignore[arg-type, return-value]
        await asyncio.wait_for(restorer.run([0, 1], on_stalled), 30)
        restorer.close()

    asyncio.run(run())
    assert told == [[1], [1]]
    assert times[1] - times[0] > 0.05
    assert contents(store, 1) == fold(log[1])


def test_partitions_are_written_side_by_side_and_each_in_order() -> None:
    store, log = SlowStore(), {0: filled(0, 12), 1: filled(1, 12)}
    assert restore(store, FakeConsumer(log, {0: 12, 1: 12}, [{0: 3, 1: 3}] * 4), [0, 1]).records == 24  # type: ignore[arg-type]
    assert store.writing_most == 2
    assert store.state == {n: fold(log[n]) for n in log}


def test_after_cancel_nothing_is_written_any_more() -> None:
    store, log = SlowStore(), {0: filled(0, 12), 1: filled(1, 12)}
    consumer = FakeConsumer(log, {0: 12, 1: 12}, [{0: 3}, {0: 3, 1: 3}], then=None)

    async def use(restorer: Restorer) -> None:
        running = asyncio.create_task(restorer.run([0, 1], None))
        await consumer.waits.wait()
        await restorer.cancel()
        assert not store.in_work
        assert running.done()
        assert store.offsets == {0: 5, 1: 2}
        await restorer.cancel()

    restoring(store, consumer)(use)
    assert store.state == {n: fold(log[n][: store.offsets[n] + 1]) for n in log}
    assert consumer.calls == ["start", "stop"]


def test_also_a_restore_that_is_cancelled_twice_writes_nothing_after_it() -> None:
    # By the rebalance that breaks Faust's recovery off, and by the store that is to be closed.
    store, log = SlowStore(), {0: filled(0, 12), 1: filled(1, 12)}
    consumer = FakeConsumer(log, {0: 12, 1: 12}, [{0: 3, 1: 3}], then=None)

    async def use(restorer: Restorer) -> None:
        running = asyncio.create_task(restorer.run([0, 1], None))
        await consumer.waits.wait()
        await asyncio.to_thread(store.began.wait)
        running.cancel()
        await asyncio.sleep(0)
        await restorer.cancel()
        assert not store.in_work
        assert store.offsets == {0: 2, 1: 2}

    restoring(store, consumer)(use)


def test_a_failed_write_ends_the_restore_when_the_others_are_over() -> None:
    store, log = SlowStore(), {0: filled(0, 12), 1: filled(1, 12)}
    store.fails = True
    consumer = FakeConsumer(log, {0: 12, 1: 12}, [{0: 3, 1: 3}])

    async def use(restorer: Restorer) -> None:
        with pytest.raises(StoreError, match="disk full"):
            await restorer.run([0, 1], None)
        assert not store.in_work
        assert store.offsets == {0: 2}

    restoring(store, consumer)(use)


records_of = st.lists(
    st.tuples(st.sampled_from(KEYS), st.none() | st.binary(max_size=3), st.integers(0, 2)), max_size=25
)
steps_of = st.lists(st.dictionaries(st.integers(0, 2), st.integers(0, 9)), max_size=12)


@settings(max_examples=20, deadline=None)
@given(
    logs=st.lists(records_of, min_size=3, max_size=3),
    runs=st.lists(st.tuples(steps_of, st.booleans()), max_size=4),
    last=steps_of,
)
def test_any_fetches_tombstones_gaps_and_stops_restore_what_a_fold_gives(
    logs: list[list[tuple[bytes, bytes | None, int]]],
    runs: list[tuple[list[dict[int, int]], bool]],
    last: list[dict[int, int]],
) -> None:
    log, ends = _log_of(logs)
    with tempfile.TemporaryDirectory() as home:
        store = _opened(Path(home))
        for steps, is_crash in runs:
            _stopped_after(store, FakeConsumer(log, ends, steps, then=None))
            if is_crash:  # the files as they are, and what was not flushed is gone with the process
                store.close_all()
                store = _opened(Path(home))
            for n in log:
                stored = store.offset(n)
                assert contents(store, n) == fold(r for r in log[n] if stored is not None and r.offset <= stored)
        restore(store, FakeConsumer(log, ends, last), list(log))
        assert [contents(store, n) for n in log] == [fold(log[n]) for n in log]
        store.close_all()


def _log_of(logs: Sequence[Sequence[tuple[bytes, bytes | None, int]]]) -> tuple[Log, dict[int, int]]:
    """Records with gaps between their offsets, as compaction and markers leave them."""
    log: Log = {}
    ends: dict[int, int] = {}
    for partition, records in enumerate(logs):
        offset, log[partition] = 0, []
        for key, value, gap in records:
            log[partition].append(Record(offset, key, value))
            offset += 1 + gap
        ends[partition] = offset
    return log, ends


def _opened(home: Path) -> StateStore:
    store = StateStore(home / "state", block_cache_mb=8, write_buffer_mb=8)
    for partition in range(3):
        store.open(partition)
    return store


def _stopped_after(store: StateStore, consumer: Any) -> None:
    """Restore until the steps are used up, then break off; a restore that is over before is one as well."""

    async def use(restorer: Restorer) -> None:
        running = asyncio.create_task(restorer.run([0, 1, 2], None))
        waiting = asyncio.create_task(consumer.waits.wait())
        await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
        await restorer.cancel()
        waiting.cancel()
        assert running.done()

    restoring(store, consumer)(use)

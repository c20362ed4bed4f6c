"""The engine: batches settle once and in order, an error ends it, and a drain leaves nothing behind."""

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from operators import limits, state
from operators.batches import UserKey
from operators.candidates.popularity import Popularity
from operators.interest import PackedJobs
from operators.lists import causes_max
from operators.records import Records
from operators.state import StateError
from streams.clock import now_ms
from streams.engine import DrainError
from streams.sources import SOURCES_KEY
from streams.states import POPULARITY_KEY, States
from tests.fakes import NOW_MS, TOPICS, record
from tests.unit.engine_bench import PATIENCE_S, TP, WAIT_S, Arrived, Bench, causes, intake_of, run, view_offsets

IN_WORK = 7
"""Batches at most: those that are computed and those in settlement."""


def test_every_batch_is_settled_once_and_in_order() -> None:
    async def scenario(bench: Bench) -> None:
        for offset in range(8):
            await bench.submit(offset)
        await bench.until_ended(8)
        await asyncio.sleep(PATIENCE_S)
        assert view_offsets(bench.checkpoint.ended) == [1, 2, 3, 4, 5, 6, 7, 8]
        assert [causes(one.effects) for one in bench.checkpoint.ended] == [[("view", n)] for n in range(8)]
        assert bench.metrics.totals["batches_total"] == 8
        assert bench.metrics.totals["folded_total"] == 8
        assert bench.engine.pending_events == 0
        text = bench.metrics.prometheus()
        assert "headwater_freshness_seconds_count 8\n" in text
        for stage in ("decode", "load", "fold", "encode", "states", "wait", "rank", "lists", "settle"):
            assert f'headwater_stage_seconds_count{{stage="{stage}"}} 8\n' in text

    run(scenario)


def test_a_partition_that_has_brought_bad_records_only_names_its_sources_too() -> None:
    """Else its committed offsets would look like those of states that are gone."""

    async def scenario(bench: Bench) -> None:
        bench.engine._states = States(bench.store, 4, 100, sources={"view": "id-1"})  # pyright: ignore[reportPrivateUsage]
        await bench.submit_records("view", [Arrived(0, b"ann", b"no event", [], NOW_MS)])
        await bench.until_ended(1)
        ((partition, key, _),) = bench.checkpoint.ended[0].snapshots
        assert (partition, key) == (0, SOURCES_KEY)

    run(scenario)


def test_chunks_that_are_there_together_are_one_batch_with_the_highest_offset_of_each_source() -> None:
    async def scenario(bench: Bench) -> None:
        bench.checkpoint.hold()
        await bench.submit(0)
        await bench.until(lambda: len(bench.checkpoint.begun) == 1)
        await bench.submit(1)  # computes meanwhile, and then waits for the settlement of the first
        await bench.until(lambda: bench.encoder.step_calls >= 2)
        await bench.submit(2)
        await bench.submit(3)
        await bench.submit(9, topic="purchase")
        bench.checkpoint.let()
        await bench.until_ended(3)
        last = bench.checkpoint.ended[2]
        assert last.offsets == {TP("view", 0): 4, TP("purchase", 0): 10}
        assert causes(last.effects) == [("view", 2), ("view", 3), ("purchase", 9)]

    run(scenario, batch_events_max=100)


def test_what_one_fetch_has_brought_is_one_batch_also_for_an_idle_engine() -> None:
    async def scenario(bench: Bench) -> None:
        made = record(0, "ann", "item-0", NOW_MS)
        await bench.engine.submit(intake_of(topic, [Arrived(*made, NOW_MS)]) for topic in ("view", "purchase"))
        await bench.until_ended(1)
        assert bench.checkpoint.ended[0].offsets == {TP("view", 0): 1, TP("purchase", 0): 1}

    run(scenario, batch_events_max=100)


def test_a_batch_is_no_larger_than_what_a_list_can_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "list_causes_bytes_max", 2 * limits.list_causes_bytes_max // causes_max(TOPICS))
    assert causes_max(TOPICS) == 2

    async def scenario(bench: Bench) -> None:
        bench.checkpoint.hold()
        for offset in range(7):
            await bench.submit(offset)
        bench.checkpoint.let()
        await bench.until(lambda: bench.engine.pending_events == 0)
        assert max(len(causes(settled.effects)) for settled in bench.checkpoint.ended) == 2

    run(scenario, batch_events_max=100)


def test_batches_are_smaller_where_lists_are_slow_and_grow_again() -> None:
    most_s = limits.batch_lists_s_max

    async def scenario(bench: Bench) -> None:
        engine: Any = bench.engine
        assert engine._batch_events_now == limits.chunk_records_max
        sizes: list[int] = []
        for events, lists_s in (
            (500, most_s / 100),
            (1_000, most_s / 100),
            (2_000, most_s / 100),
            (4_000, most_s / 100),
            (4_000, 2 * most_s),
            (2_000, 0.9 * most_s),
            (2_000, 1.1 * most_s),
            (1, 9 * most_s),
            (1, 0.4 * most_s),
        ):
            engine._note_pace(events, lists_s)
            sizes.append(engine._batch_events_now)
        assert sizes == [1_000, 2_000, 4_000, 7_000, 2_000, 2_000, 1_818, 1, 2]

    run(scenario, batch_events_max=limits.batch_events_max)


def test_a_batch_takes_no_more_than_the_pace_allows() -> None:
    async def scenario(bench: Bench) -> None:
        engine: Any = bench.engine
        computing, goes_on = hold_steps(bench)
        await bench.submit(0)
        await bench.until(computing.is_set)
        for offset in range(1, 9):
            await bench.submit(offset)
        engine._batch_events_now = 2
        engine._note_pace = lambda _events, _lists_s: None
        goes_on.set()
        await bench.until(lambda: engine.pending_events == 0)
        assert [len(causes(each.effects)) for each in bench.checkpoint.ended] == [1, 2, 2, 2, 2]

    run(scenario, batch_events_max=100)


def test_one_full_partition_is_enough_for_a_batch_beside_the_one_in_work() -> None:
    goes_on = threading.Event()

    async def scenario(bench: Bench) -> None:
        bench.engine._batch_events_now = limits.batch_events_max  # pyright: ignore[reportPrivateUsage]
        advance = bench.encoder.advance

        def waits(packed: PackedJobs) -> Any:
            goes_on.wait(WAIT_S)
            return advance(packed)

        bench.encoder.advance = waits
        await bench.submit(0)
        await bench.until(lambda: bench.engine._computing == 1)  # pyright: ignore[reportPrivateUsage]
        full = [record(1 + n, "ann", "item-1", NOW_MS) for n in range(limits.partition_queue_events_max)]
        await bench.submit_records("view", [Arrived(*one, NOW_MS) for one in full])
        await bench.until(lambda: bench.engine._computing == 2)  # pyright: ignore[reportPrivateUsage]
        goes_on.set()
        await bench.until(lambda: bench.engine.pending_events == 0)

    run(scenario, batch_events_max=limits.batch_events_max)


def test_only_so_many_batches_are_in_work_and_each_settles_after_the_one_before() -> None:
    async def scenario(bench: Bench) -> None:
        bench.checkpoint.hold()
        for offset in range(9):
            await bench.submit(offset)
        await bench.until(lambda: bench.encoder.step_calls == IN_WORK)
        await asyncio.sleep(PATIENCE_S)
        assert view_offsets(bench.checkpoint.begun) == [1, 2, 3, 4]
        assert bench.encoder.step_calls == IN_WORK < 9, "one more was computed while the first was in settlement"
        assert bench.engine.pending_events == 9
        bench.checkpoint.let()
        await bench.until_ended(9)
        assert view_offsets(bench.checkpoint.ended) == list(range(1, 10))

    run(scenario)


def test_a_user_of_a_batch_in_work_does_not_come_back_from_the_store_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "batch_events_max", 1)  # so that the least cache holds a user for each batch in work

    async def scenario(bench: Bench) -> None:
        bench.engine._states = States(bench.store, 4, 1)  # pyright: ignore[reportPrivateUsage]
        bench.checkpoint.hold()
        users = ["ann", "bob", "cyd", "dan", "eve", "ann"]
        for offset, user in enumerate(users):
            await bench.submit(offset, user=user)
        await bench.until(lambda: bench.encoder.step_calls == len(users))
        assert not bench.checkpoint.ended, "nothing is stored yet"
        bench.checkpoint.let()
        await bench.until_ended(len(users))
        stored = {put.user.key: put.value for settled in bench.checkpoint.ended for put in settled.effects.puts}
        items = {key: state.decode(value).history_items for key, value in stored.items()}
        assert items == {
            b"ann": ["item-0", "item-5"],
            b"bob": ["item-1"],
            b"cyd": ["item-2"],
            b"dan": ["item-3"],
            b"eve": ["item-4"],
        }

    run(scenario)


def hold_steps(bench: Bench) -> tuple[threading.Event, threading.Event]:
    """Whether the encoder has begun a step, and whether its steps may end."""
    computing, goes_on = threading.Event(), threading.Event()
    step = bench.encoder.step

    def slow_step(*inputs: Any) -> Any:
        computing.set()
        goes_on.wait(WAIT_S)
        return step(*inputs)

    bench.encoder.step = slow_step
    return computing, goes_on


def test_a_second_batch_is_taken_early_only_when_it_is_half_full() -> None:
    async def scenario(bench: Bench) -> None:
        computing, goes_on = hold_steps(bench)
        await bench.submit(0)
        await bench.until(computing.is_set)
        for offset in (1, 2):
            await bench.submit(offset)
        await asyncio.sleep(PATIENCE_S)
        assert len(bench.engine._queue) == 2
        await bench.submit(3)
        await bench.until(lambda: len(bench.engine._queue) == 0)
        goes_on.set()
        await bench.until_ended(2)
        assert view_offsets(bench.checkpoint.ended) == [1, 4]

    run(scenario, batch_events_max=6)


def test_there_is_time_for_more_when_the_states_are_updated_and_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(bench: Bench) -> None:
        computing, goes_on = hold_steps(bench)
        await asyncio.wait_for(bench.engine.spare(), PATIENCE_S)
        await bench.submit(0)
        await bench.until(computing.is_set)
        monkeypatch.setattr(limits, "fetch_pace_ms", 1000 * WAIT_S)
        waits = asyncio.create_task(bench.engine.spare())
        await asyncio.sleep(PATIENCE_S)
        assert not waits.done()
        monkeypatch.setattr(limits, "fetch_pace_ms", 1)
        await asyncio.wait_for(bench.engine.spare(), WAIT_S)  # not for ever
        assert not waits.done()
        lists_go_on = threading.Event()
        bench.engine._lists.submit(lists_go_on.wait, WAIT_S)
        monkeypatch.setattr(limits, "fetch_pace_ms", 1000 * WAIT_S)
        goes_on.set()
        await asyncio.wait_for(waits, WAIT_S / 2)  # the lists are still to be made
        await bench.submit(1)
        waits = asyncio.create_task(bench.engine.spare())
        await asyncio.sleep(PATIENCE_S)
        assert not waits.done()
        bench.checkpoint.hold()
        lists_go_on.set()
        await asyncio.wait_for(waits, WAIT_S / 2)  # whatever becomes of the settlement

    run(scenario)


def test_an_error_in_compute_ends_the_engine_and_settles_nothing_after_it() -> None:
    async def scenario(bench: Bench) -> None:
        bench.store.values[0, b"bob"] = b"\x01 damaged"
        await bench.submit(0)
        await bench.until_ended(1)
        await bench.submit(1, user="bob")
        await bench.submit(2)
        await bench.until(bench.engine.failed.done)
        await asyncio.sleep(PATIENCE_S)
        assert view_offsets(bench.checkpoint.begun) == [1]
        with pytest.raises(StateError, match="'bob'"):
            bench.engine.failed.result()

    run(scenario)


def test_an_error_in_settlement_ends_the_engine_and_settles_nothing_after_it() -> None:
    async def scenario(bench: Bench) -> None:
        bench.checkpoint.error = ConnectionError("broker gone")
        bench.checkpoint.hold()
        for offset in range(8):
            await bench.submit(offset)
        await bench.until(lambda: bench.encoder.step_calls == IN_WORK)
        bench.checkpoint.let(1)
        await bench.until(bench.engine.failed.done)
        bench.checkpoint.error = None
        bench.checkpoint.let()
        await asyncio.sleep(PATIENCE_S)
        assert view_offsets(bench.checkpoint.begun) == [1, 2, 3, 4]
        assert bench.checkpoint.ended == []
        assert bench.metrics.totals["batches_total"] == 0
        with pytest.raises(ConnectionError):
            bench.engine.failed.result()

    run(scenario)


def test_a_failed_engine_drains_at_once_and_saves_nothing() -> None:
    async def scenario(bench: Bench) -> None:
        bench.checkpoint.error = ConnectionError("broker gone")
        await bench.submit(0)
        await bench.until(bench.engine.failed.done)
        await asyncio.wait_for(bench.engine.drain(), 1)
        assert len(bench.checkpoint.begun) == 1
        assert len(bench.states) == 0

    run(scenario)


def test_chunks_that_are_not_accepted_are_dropped() -> None:
    async def scenario(bench: Bench) -> None:
        bench.generations = {2}
        await bench.submit(0, generation=1)
        await bench.submit(5, generation=2)
        await bench.submit(1, generation=1)
        await bench.submit(6, generation=2)
        await bench.until_ended(2)
        await asyncio.sleep(PATIENCE_S)
        assert view_offsets(bench.checkpoint.ended) == [6, 7]
        await asyncio.wait_for(bench.engine.drain(), 1)

    run(scenario)


def test_a_topic_that_lags_holds_its_partition_back_for_a_moment_only() -> None:
    async def scenario(bench: Bench) -> None:
        bench.lagging = {"click"}
        await bench.submit(7)
        await asyncio.sleep(PATIENCE_S)
        assert not bench.checkpoint.begun
        await bench.submit(3, topic="click")
        await bench.until_ended(1)
        assert causes(bench.checkpoint.ended[0].effects) == [("click", 3)]
        await bench.until_ended(2)

    run(scenario)


def test_dead_letters_and_tombstones_are_settled_with_their_offsets() -> None:
    async def scenario(bench: Bench) -> None:
        tombstone, bad = Arrived(4, b"ann", None, (), NOW_MS), Arrived(5, b"ann", b"not json", (), NOW_MS)
        await bench.submit_records("view", [tombstone, bad])
        await bench.until_ended(1)
        (settled,) = bench.checkpoint.ended
        assert [letter.record for letter in settled.effects.dead_letters] == list(Records.of([tombstone, bad]))
        assert settled.effects.puts == []
        assert settled.offsets == {TP("view", 0): 6}
        assert bench.metrics.totals["rejected_total"] == 2

    run(scenario)


def test_the_catalog_is_applied_before_a_batch_is_ranked() -> None:
    async def scenario(bench: Bench) -> None:
        bench.catalog.note(b"item-7", None)
        await bench.submit(0)
        await bench.until_ended(1)
        (publish,) = bench.checkpoint.ended[0].effects.lists
        listed = {item["item_id"] for item in msgspec.json.decode(publish.value)["items"]}
        assert "item-8" in listed
        assert "item-7" not in listed

    run(scenario)


@pytest.mark.parametrize(
    ("yield_after_s", "ages_s", "yields"),
    [
        (0.0, [900, 900, 900], False),
        (60.0, [900, 900, 900], True),
        (60.0, [900, 900, 1], True),
        (60.0, [900, 1, 1], False),  # one old record says nothing of the worker
        (60.0, [1, 1, 900], False),
        (60.0, [-900, -900, -900], False),
    ],
)
def test_the_encoder_yields_where_records_have_waited_too_long(
    yield_after_s: float, ages_s: list[int], yields: bool
) -> None:
    async def scenario(bench: Bench) -> None:
        now = now_ms()
        records = [record(n, "ann", f"item-{n}", NOW_MS + n) for n in range(len(ages_s))]
        arrived = [Arrived(*made, now - 1000 * age_s) for made, age_s in zip(records, ages_s, strict=True)]
        await bench.submit_records("view", arrived)
        await bench.until_ended(1)
        (published,) = bench.checkpoint.ended[0].effects.lists
        assert msgspec.json.decode(published.value)["degraded"] == yields
        assert bench.metrics.totals["yielded_lists_total"] == yields
        assert bench.metrics.totals["degraded_lists_total"] == yields
        assert bench.metrics.gauges["degraded"] == 0  # the encoder does not fail

    run(scenario, yield_after_s=yield_after_s)


def test_popularity_is_saved_with_a_batch_once_enough_events_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "popularity_checkpoint_events", 3)

    async def scenario(bench: Bench) -> None:
        for offset in range(4):
            await bench.submit(offset)
        await bench.until_ended(4)
        assert [len(one.snapshots) for one in bench.checkpoint.ended] == [0, 0, 1, 0]
        ((partition, key, value),) = bench.checkpoint.ended[2].snapshots
        assert (partition, key) == (0, POPULARITY_KEY)
        assert Popularity.restore(value).events == 3

    run(scenario)


def test_drain_drops_what_is_queued_and_waits_for_what_is_in_work() -> None:
    async def scenario(bench: Bench) -> None:
        bench.checkpoint.hold()
        for offset in range(IN_WORK + 1):
            await bench.submit(offset)
        await bench.until(lambda: bench.encoder.step_calls == IN_WORK)
        draining = asyncio.create_task(bench.engine.drain())
        done, _ = await asyncio.wait([draining], timeout=PATIENCE_S)
        assert not done
        assert len(bench.states) == 1, "the cache was forgotten while batches were in work"
        bench.checkpoint.let(IN_WORK - 1)
        await asyncio.sleep(PATIENCE_S)
        assert len(bench.checkpoint.begun) == IN_WORK, "popularity was saved while the last batch was in settlement"
        bench.checkpoint.let()
        await asyncio.wait_for(draining, WAIT_S)
        *batches, saved = bench.checkpoint.ended
        assert view_offsets(batches) == list(range(1, IN_WORK + 1))
        assert (saved.offsets, saved.effects.puts, saved.effects.lists) == ({}, [], [])
        ((partition, key, value),) = saved.snapshots
        assert (partition, key, Popularity.restore(value).events) == (0, POPULARITY_KEY, IN_WORK)
        assert len(bench.states) == 0
        await asyncio.sleep(PATIENCE_S)
        assert len(bench.checkpoint.begun) == IN_WORK + 1, "a dropped chunk was processed"

    run(scenario)


def test_after_a_drain_the_states_come_from_the_store() -> None:
    async def scenario(bench: Bench) -> None:
        await bench.submit(0)
        await bench.until_ended(1)
        await bench.engine.drain()
        (put,) = bench.checkpoint.ended[0].effects.puts
        assert put.user == UserKey(0, b"ann")
        bench.store.values[0, b"ann"] = put.value
        ((partition, key, value),) = bench.checkpoint.ended[1].snapshots
        bench.store.values[partition, key] = value
        await bench.submit(1)
        await bench.until_ended(3)
        (again,) = bench.checkpoint.ended[2].effects.puts
        assert state.decode(again.value).history_items == ["item-0", "item-1"]
        await bench.engine.drain()
        ((_, _, value),) = bench.checkpoint.ended[3].snapshots
        assert Popularity.restore(value).events == 2

    run(scenario)


def test_a_drain_gives_up_on_a_settlement_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "drain_max_s", PATIENCE_S)

    async def scenario(bench: Bench) -> None:
        bench.checkpoint.hold()
        await bench.submit(0)
        await bench.until(lambda: len(bench.checkpoint.begun) == 1)
        with pytest.raises(DrainError, match=rf"not settled within {PATIENCE_S:g} s.*broker or the disk.*doctor"):
            await bench.engine.drain()
        assert not bench.checkpoint.ended

    run(scenario)


def test_stop_leaves_what_is_in_work_unsettled() -> None:
    async def scenario(bench: Bench) -> None:
        bench.checkpoint.hold()
        await bench.submit(0)
        await bench.until(lambda: len(bench.checkpoint.begun) == 1)
        await asyncio.wait_for(bench.engine.stop(), WAIT_S)
        bench.checkpoint.let()
        await asyncio.sleep(PATIENCE_S)
        assert not bench.checkpoint.ended
        assert not bench.engine.failed.done()

    run(scenario)

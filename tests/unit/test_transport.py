"""The changes to Faust's consumer that need no broker: what is fetched, handed on, accepted and committed."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# Faust and aiokafka keep to themselves what is changed, and neither is typed throughout.

import asyncio
import math
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import Message

from operators.records import PackedRecord, Records
from streams.transport import BatchProducer, ChunkConsumer, ChunkSchema, ChunkTransport

VIEW, CLICK, PURCHASE, CHANGES = TP("view", 0), TP("click", 1), TP("purchase", 0), TP("changelog", 0)
GENERATION = 3


def parsed(*offsets: int) -> Records:
    return Records.of([PackedRecord(offset, 1_500, None, None, []) for offset in offsets])


class FakeClient:
    """What owns aiokafka's consumer."""

    def __init__(self) -> None:
        self.unfetched: dict[TP, float] = {}
        self.rewound: list[TopicPartition] = []
        self.looks = asyncio.Event()

    def behind(self, tp: TP) -> float:
        return self.unfetched.get(tp, 0)

    def assignment(self) -> set[TP]:
        return set(self.unfetched)

    def look_again(self) -> None:
        self.looks.set()

    async def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        self.rewound += partitions


class Consumer(ChunkConsumer):
    """A consumer of a fake app and a fake client: Faust's own constructor is not run."""

    should_stop = False  # type: ignore[assignment]  # a property in Faust

    def __init__(self) -> None:
        self.app: Any = SimpleNamespace(
            consumer_generation_id=GENERATION,
            exactly_once=False,
            rebalancing=False,
            in_recovery=False,
            tables=SimpleNamespace(changelog_topics={CHANGES.topic}),
        )
        self.client: Any = FakeClient()
        self._thread = self.client
        self._settled: dict[TP, int] = {}
        self._fetched = {}
        self._drain = None
        self._fetching = asyncio.Lock()
        self._wanted = set()
        self._resumed = asyncio.Event()
        self._revocations = 0
        self._sought = (GENERATION, 0)
        self._unacked_messages: Any = set()
        self._active_partitions = {VIEW, CLICK, CHANGES}
        self._buffered_partitions = set()
        self.flow_active = True
        self.records: dict[TP, Records] = {}
        self.asked: list[set[TP]] = []
        self.events: list[str] = []
        self.told: list[tuple[set[int], set[int]]] = []
        self.check_sources = lambda *partitions: self.told.append(partitions)

    def __repr__(self) -> str:
        return "<Consumer of a test>"  # Faust's asks for what its constructor makes

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109
        assert active_partitions is not None
        self.asked.append(active_partitions)
        return {tp: records for tp, records in self.records.items() if tp in active_partitions}

    async def commit_and_end_transactions(self) -> None:
        self.events.append("commit")


def fetched(consumer: Consumer) -> Coroutine[Any, Any, list[tuple[TP, list[int]]]]:
    """Source partitions and offsets of one fetch."""

    async def one_fetch() -> list[tuple[TP, list[int]]]:
        messages: Any = [message async for _, message in consumer.getmany(timeout=1.0)]
        return [(tp, part.offsets.tolist()) for message in messages for tp, part in message.value.items()]

    return one_fetch()


@pytest.fixture
def consumer() -> Consumer:
    return Consumer()


def test_a_fetch_is_one_message(consumer: Consumer) -> None:
    consumer.records = {
        VIEW: Records.of([PackedRecord(7, 1_500, None, b"a", []), PackedRecord(8, 2_500, b"k", None, [])]),
        CLICK: parsed(5),
    }

    async def one_fetch() -> list[tuple[TP, Message]]:
        return [each async for each in consumer.getmany(timeout=1.0)]

    ((tp, message),) = asyncio.run(one_fetch())
    assert tp == message.tp == VIEW
    assert (message.topic, message.partition, message.offset, message.timestamp) == ("view", 0, 8, 2.5)
    assert message.generation_id == GENERATION
    value: Any = message.value
    assert list(value) == [VIEW, CLICK]
    assert list(value[VIEW]) == list(consumer.records[VIEW])
    schema: Any = ChunkSchema()
    assert schema.loads_value(consumer.app, message) is value
    assert schema.loads_key(consumer.app, message) is None


def test_a_partition_without_records_and_a_fetch_without_any_bring_nothing(consumer: Consumer) -> None:
    consumer._active_partitions.add(PURCHASE)
    consumer.records = {TopicPartition(*VIEW): parsed(0, 1, 2), PURCHASE: parsed(), CLICK: parsed(5)}
    messages = asyncio.run(fetched(consumer))
    assert messages == [(VIEW, [0, 1, 2]), (CLICK, [5])]
    assert all(isinstance(tp, TP) for tp, _ in messages)
    consumer.records = {PURCHASE: parsed()}
    assert asyncio.run(fetched(consumer)) == []


def test_before_the_seek_and_during_a_rebalance_nothing_is_fetched_and_never_the_changelog(consumer: Consumer) -> None:
    for name, value in (("_sought", None), ("_revocations", 1)):
        fresh = Consumer()
        setattr(fresh, name, value)
        assert fresh._fetchable() == set()
    consumer.app.rebalancing = True
    assert consumer._fetchable() == set()
    consumer.app.rebalancing = False
    assert consumer._fetchable() == {VIEW, CLICK}
    assert consumer._fetchable() is not consumer._active_partitions


@pytest.mark.parametrize("change", ["generation", "flow"])
def test_what_was_fetched_before_a_rebalance_is_dropped(consumer: Consumer, change: str) -> None:
    async def rebalanced(active_partitions: set[TP], timeout: float) -> Any:  # noqa: ASYNC109
        if change == "generation":
            consumer.app.consumer_generation_id += 1
        else:
            consumer.flow_active = False
        return {VIEW: parsed(0), CLICK: parsed(1)}

    consumer._getmany = rebalanced  # type: ignore[method-assign]
    assert asyncio.run(fetched(consumer)) == []
    assert not consumer._fetching.locked()


def test_a_seek_waits_for_the_fetch_under_way(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def seek(self: Consumer) -> None:
        self.events.append("seek")

    monkeypatch.setattr(driver.Consumer, "perform_seek", seek)
    consumer.records = {VIEW: parsed(0)}

    async def scenario() -> None:
        fetch: Any = consumer.getmany(timeout=1.0)
        await anext(fetch)
        seeking = asyncio.create_task(consumer.perform_seek())
        await asyncio.wait([seeking], timeout=0.02)
        assert consumer.events == []
        await fetch.aclose()
        await asyncio.wait_for(seeking, 5)
        assert consumer.events == ["seek"]

    asyncio.run(scenario())


def test_a_seek_counts_for_the_assignment_it_began_in(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def revoked_meanwhile(self: Consumer) -> None:
        self._revocations += 1

    async def quiet(self: Consumer) -> None: ...

    consumer._sought = None
    monkeypatch.setattr(driver.Consumer, "perform_seek", revoked_meanwhile)
    asyncio.run(consumer.perform_seek())
    assert not consumer.accepts(GENERATION)
    monkeypatch.setattr(driver.Consumer, "perform_seek", quiet)
    asyncio.run(consumer.perform_seek())
    assert consumer.accepts(GENERATION)


def test_accepts_only_chunks_of_this_generation_after_its_seek_while_the_flow_is_on(consumer: Consumer) -> None:
    assert consumer.accepts(GENERATION)
    assert not consumer.accepts(GENERATION - 1)
    consumer.flow_active = False
    assert not consumer.accepts(GENERATION)
    consumer.flow_active = True
    consumer._revocations += 1
    assert not consumer.accepts(GENERATION)


def test_what_is_fetched_is_known_before_it_is_handed_on(consumer: Consumer) -> None:
    consumer.records = {VIEW: parsed(7, 8), CLICK: parsed()}

    async def first() -> Any:
        async for tp, _ in consumer.getmany(timeout=1.0):
            return tp
        return None

    assert asyncio.run(first()) == VIEW
    assert consumer._fetched == {VIEW: 8}


def test_has_more_knows_what_is_on_its_way_and_what_the_broker_has(consumer: Consumer) -> None:
    assert not consumer.has_more(VIEW, -1)
    consumer._fetched[VIEW] = 8
    assert consumer.has_more(VIEW, -1)
    assert consumer.has_more(VIEW, 7)
    assert not consumer.has_more(VIEW, 8)
    assert not consumer.has_more(CLICK, -1)
    consumer.client.unfetched = {VIEW: 1}
    assert consumer.has_more(VIEW, 8)


def test_the_lag_is_of_events_and_only_what_is_known(consumer: Consumer) -> None:
    consumer.client.unfetched = {VIEW: 3, CLICK: 4, CHANGES: 100, TP("purchase", 2): math.inf}
    assert consumer.unfetched_events() == 7


def test_a_paused_partition_is_not_fetched_until_it_is_resumed(consumer: Consumer) -> None:
    consumer.pause(VIEW)
    assert consumer._fetchable() == {CLICK}
    consumer.resume(VIEW)
    assert consumer._fetchable() == {VIEW, CLICK}


def test_a_partition_that_is_resumed_joins_the_fetch_that_waits_for_others(consumer: Consumer) -> None:
    async def waits(active_partitions: set[TP], timeout: float) -> Any:  # noqa: ASYNC109
        await asyncio.wait_for(consumer.client.looks.wait(), timeout)
        return {tp: records for tp, records in consumer.records.items() if tp in active_partitions}

    async def resumed() -> list[tuple[TP, list[int]]]:
        consumer._getmany = waits  # type: ignore[method-assign]
        fetch = asyncio.create_task(fetched(consumer))
        await asyncio.sleep(0)
        consumer.resume(CLICK)  # it was not paused
        assert not consumer.client.looks.is_set()
        consumer.resume(VIEW)
        return await fetch

    consumer.records = {VIEW: parsed(7)}
    consumer.pause(VIEW)
    assert asyncio.run(resumed()) == [(VIEW, [7])]


def test_a_partition_that_is_resumed_during_a_rebalance_joins_nothing(consumer: Consumer) -> None:
    consumer.pause(VIEW)
    consumer.app.rebalancing = True
    consumer.resume(VIEW)
    assert not consumer.client.looks.is_set()
    assert consumer._wanted == set()
    consumer.app.rebalancing = False
    assert consumer._fetchable() == {VIEW, CLICK}


def test_a_partition_that_is_resumed_ends_the_wait_of_a_worker_whose_partitions_are_all_full(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.transport._IDLE_POLL_S", 60.0)

    async def resumed() -> list[tuple[TP, list[int]]]:
        waits = asyncio.create_task(fetched(consumer))
        await asyncio.sleep(0.01)
        consumer.resume(VIEW)
        assert await asyncio.wait_for(waits, 5) == []
        return await fetched(consumer)

    consumer.records = {VIEW: parsed(7)}
    consumer.pause(VIEW)
    consumer.pause(CLICK)
    assert asyncio.run(resumed()) == [(VIEW, [7])]


def test_only_settle_moves_the_offset_and_never_back(consumer: Consumer) -> None:
    assert consumer._new_offset(VIEW) is None
    consumer.settle(VIEW, 12)
    consumer.settle(VIEW, 9)
    assert consumer._new_offset(VIEW) == 12
    assert consumer._new_offset(CLICK) is None


def test_what_a_transaction_has_committed_is_not_committed_again(consumer: Consumer) -> None:
    consumer.app.exactly_once = True
    consumer.settle(VIEW, 12)
    assert consumer._new_offset(VIEW) is None
    assert consumer._filter_tps_with_pending_acks() == []


def test_an_acknowledged_message_moves_nothing(consumer: Consumer) -> None:
    consumer.settle(VIEW, 5)
    message = consumer._fetch_message({VIEW: parsed(98, 99)}, GENERATION)
    consumer._unacked_messages = {message}
    assert consumer.ack(message)
    assert message.acked
    assert not consumer._unacked_messages
    assert consumer._new_offset(VIEW) == 5


def test_the_livelock_detector_looks_at_nothing(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_a_position(_now: float, _tp: TP) -> None:
        raise AssertionError  # as aiokafka's subscription state does

    monkeypatch.setattr(consumer.client, "verify_event_path", without_a_position, raising=False)
    monkeypatch.setattr(consumer, "assignment", lambda: {VIEW})
    monkeypatch.setattr(consumer, "sleep", asyncio.sleep)
    asyncio.run(consumer.verify_all_partitions_active())


def test_settled_partitions_are_what_a_commit_looks_at(consumer: Consumer) -> None:
    consumer.settle(VIEW, 5)
    consumer.settle(CLICK, 6)
    assert consumer._filter_tps_with_pending_acks() == [VIEW, CLICK]
    assert consumer._filter_tps_with_pending_acks({CLICK}) == [CLICK]
    assert consumer._filter_tps_with_pending_acks({"view"}) == [VIEW]


def test_work_is_drained_before_the_commit(consumer: Consumer) -> None:
    class Engine:
        async def drain(self) -> None:
            consumer.events.append("drain")

    asyncio.run(consumer.wait_empty())
    consumer.on_revoke_drain(Engine())
    asyncio.run(consumer.wait_empty())
    assert consumer.events == ["commit", "drain", "commit"]


def test_a_drain_that_fails_commits_nothing(consumer: Consumer) -> None:
    class Engine:
        async def drain(self) -> None:
            raise TimeoutError

    consumer.on_revoke_drain(Engine())
    with pytest.raises(TimeoutError):
        asyncio.run(consumer.wait_empty())
    assert consumer.events == []


def test_revoked_partitions_are_forgotten_after_their_last_commit(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def commits(self: Consumer, revoked: set[TP]) -> None:
        assert self._new_offset(VIEW) == 5
        assert not self.accepts(GENERATION)
        self.events.append("commit")

    monkeypatch.setattr(driver.Consumer, "on_partitions_revoked", commits)
    consumer.settle(VIEW, 5)
    consumer.settle(CLICK, 6)
    consumer._fetched[VIEW] = 9
    asyncio.run(consumer.on_partitions_revoked({VIEW}))
    assert consumer.events == ["commit"]
    assert (consumer._new_offset(VIEW), consumer._new_offset(CLICK)) == (None, 6)
    assert not consumer.has_more(VIEW, -1)


def test_without_a_committed_offset_events_are_read_from_their_beginning(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed: dict[Any, int | None] = {VIEW: None, CLICK: 4, TP("purchase", 2): 0, CHANGES: None}

    async def seek(self: Consumer) -> dict[Any, int | None]:
        return committed

    monkeypatch.setattr(driver.Consumer, "seek_to_committed", seek)
    assert asyncio.run(consumer.seek_to_committed()) == committed
    assert consumer.client.rewound == [TopicPartition("view", 0), TopicPartition("purchase", 2)]
    assert consumer.told == [({0, 1, 2}, {1})]


def test_the_transport_makes_these_consumers_and_producers() -> None:
    assert (ChunkTransport.Consumer, ChunkTransport.Producer) == (ChunkConsumer, BatchProducer)

"""Settlement: delivered, then stored, then acknowledged; whatever fails leaves the steps after it undone."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from faust.types import TP

from operators import limits
from operators.batches import DeadLetter, UserKey
from operators.effects import Counts, Effects, Erase, Publish, PutState
from operators.events import Rejected
from streams.checkpoint import Checkpoint, Settlement, Targets
from tests.fakes import FakeRecord

TARGETS = Targets("changelog", "lists", 2, "dead", 1)
ANN, BOB = UserKey(0, b"ann"), UserKey(3, b"bob")
BATCH_RECORDS_MAX = 3
BATCH_BYTES_MAX = 100

Sent = dict[tuple[str, int], list[tuple[bytes | None, bytes | None, Any]]]


class FakeBatch:
    """A produce batch of three records, whose values have 100 bytes at most together; it takes any first record."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes | None, bytes | None, Any]] = []
        self.closed = False

    def append(self, *, key: bytes | None, value: bytes | None, timestamp: int | None, headers: Any) -> object | None:
        assert not self.closed
        assert timestamp is None
        size = sum(len(of_record or b"") for _, of_record, _ in self.records) + len(value or b"")
        if self.records and (len(self.records) == BATCH_RECORDS_MAX or size > BATCH_BYTES_MAX):
            return None
        self.records.append((key, value, headers))
        return object()

    def close(self) -> None:
        self.closed = True

    def record_count(self) -> int:
        return len(self.records)


class World:
    """Producer, store and offsets, with one log of what happened to all three."""

    def __init__(self, *, base_offset: int = 100) -> None:
        self.log: list[Any] = []
        self.sent: Sent = {}
        self.stored: dict[int, tuple[list[tuple[bytes, bytes]], int]] = {}
        self.offsets: dict[Any, int] = {}
        self.held: set[str] = set()
        """Topics whose deliveries wait for ``release``."""
        self.pending: list[tuple[str, asyncio.Future[Any]]] = []
        self.failing: dict[str, Exception] = {}
        self.store_error: Exception | None = None
        self._base_offset = base_offset

    # -- the producer
    def create_batch(self) -> FakeBatch:
        return FakeBatch()

    async def send_batch(self, batch: FakeBatch, topic: str, *, partition: int) -> asyncio.Future[Any]:
        assert batch.closed
        so_far = self.sent.setdefault((topic, partition), [])
        base = self._base_offset + len(so_far)
        so_far.extend(batch.records)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: self.log.append(("delivered", topic, partition, done.exception())))
        if topic in self.failing:
            future.set_exception(self.failing[topic])
        elif topic in self.held:
            self.pending.append((topic, future))
        else:
            future.set_result(SimpleNamespace(offset=base))
        return future

    def release(self) -> None:
        for _, future in self.pending:
            future.set_result(SimpleNamespace(offset=self._base_offset))

    # -- the store
    def write(self, partition: int, changes: Sequence[tuple[bytes, bytes]], offset: int) -> None:
        if self.store_error is not None:
            raise self.store_error
        self.log.append(("stored", partition))
        self.stored[partition] = (list(changes), offset)

    def scrub(self, partitions: Iterable[int]) -> None:
        self.log.append(("scrubbed", *partitions))

    # -- the offsets
    def settle(self, tp: Any, offset: int) -> None:
        self.log.append(("settled", tp))
        self.offsets[tp] = offset

    @property
    def untouched(self) -> bool:
        return not self.stored and not self.offsets


def effects(puts: Sequence[PutState] = (), lists: Sequence[Publish] = (), dead: Sequence[DeadLetter] = ()) -> Effects:
    return Effects(list(puts), list(lists), list(dead), Counts())


def letter(partition: int, value: bytes | None, key: bytes | None = b"k") -> DeadLetter:
    return DeadLetter("click", partition, FakeRecord(7, key, value), Rejected("schema", "why"))


FULL = Settlement(
    effects(
        [PutState(ANN, b"a1"), PutState(BOB, b"b1")], [Publish(ANN, b"la"), Publish(BOB, b"lb")], [letter(2, b"?")]
    ),
    [(0, b"\x00popularity", b"p0")],
    {("view", 0): 11, ("view", 3): 21},
)


def settle(world: World, settlement: Settlement) -> None:
    async def once(checkpoint: Checkpoint) -> None:
        await checkpoint.settle(settlement)

    run(world, once)


def run(world: World, use: Callable[[Checkpoint], Coroutine[Any, Any, None]], group: Any = None) -> None:
    """``use`` a checkpoint over the world in an event loop of its own."""
    producer: Any = world
    store: Any = world

    async def main(executor: ThreadPoolExecutor) -> None:
        await use(Checkpoint(lambda: producer, store, world.settle, TARGETS, executor, group))

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(main(executor))


def test_everything_is_delivered_then_stored_then_acknowledged() -> None:
    world = World()
    settle(world, FULL)
    steps = [step for step, *_ in world.log]
    assert steps == ["delivered"] * 5 + ["stored"] * 2 + ["settled"] * 2
    assert {entry[1:3] for entry in world.log[:5]} == {
        ("changelog", 0),
        ("changelog", 3),
        ("lists", 0),
        ("lists", 1),
        ("dead", 0),
    }
    assert world.offsets == FULL.offsets


def test_changelog_and_store_hold_the_same() -> None:
    world = World(base_offset=40)
    settle(world, FULL)
    assert world.sent["changelog", 0] == [(b"ann", b"a1", []), (b"\x00popularity", b"p0", [])]
    assert world.stored == {
        0: ([(b"ann", b"a1"), (b"\x00popularity", b"p0")], 41),
        3: ([(b"bob", b"b1")], 40),
    }


def test_the_stored_offset_is_that_of_the_last_record_of_the_last_batch() -> None:
    users = [UserKey(0, b"user-%d" % n) for n in range(2 * BATCH_RECORDS_MAX + 2)]
    world = World(base_offset=1_000)
    settle(world, Settlement(effects([PutState(user, b"s") for user in users]), [], {}))
    assert [key for key, _, _ in world.sent["changelog", 0]] == [user.key for user in users]
    assert [entry[0] for entry in world.log] == ["delivered"] * 3 + ["stored"]
    assert world.stored[0][1] == 1_000 + len(users) - 1


@pytest.mark.parametrize("topic", ["changelog", "lists", "dead"])
def test_a_delivery_that_fails_leaves_store_and_offsets(topic: str) -> None:
    world = World()
    world.failing[topic] = ConnectionError("broker gone")
    with pytest.raises(ConnectionError, match="broker gone"):
        settle(world, FULL)
    assert world.untouched


@pytest.mark.parametrize("topic", ["changelog", "lists", "dead"])
def test_a_delivery_that_is_slow_keeps_store_and_offsets_waiting(topic: str) -> None:
    world = World()
    world.held.add(topic)

    async def use(checkpoint: Checkpoint) -> None:
        settling = asyncio.create_task(checkpoint.settle(FULL))
        done, _ = await asyncio.wait([settling], timeout=0.05)
        assert not done
        assert world.pending
        assert world.untouched
        world.release()
        await asyncio.wait_for(settling, 5)
        assert world.offsets == FULL.offsets

    run(world, use)


def test_two_settlements_deliver_at_once_but_are_sent_stored_and_acknowledged_in_order() -> None:
    world = World()
    world.held.update(["changelog", "lists", "dead"])
    first = FULL
    second = Settlement(effects([PutState(ANN, b"a2")], [Publish(ANN, b"lb")]), [], {("view", 0): 12})

    async def use(checkpoint: Checkpoint) -> None:
        before = asyncio.create_task(checkpoint.settle(first))
        after = asyncio.create_task(checkpoint.settle(second, before))
        await asyncio.sleep(0.05)
        assert [value for _, value, _ in world.sent["changelog", 0]] == [b"a1", b"p0", b"a2"]
        of_second = [future for topic, future in world.pending][-2:]
        for future in of_second:
            future.set_result(SimpleNamespace(offset=2))
        done, _ = await asyncio.wait([before, after], timeout=0.05)
        assert not done
        assert world.untouched
        world.pending = [entry for entry in world.pending if not entry[1].done()]
        world.release()
        await asyncio.wait_for(after, 5)
        assert [entry for entry in world.log if entry[0] != "delivered"] == [
            ("stored", 0),
            ("stored", 3),
            ("settled", ("view", 0)),
            ("settled", ("view", 3)),
            ("stored", 0),
            ("settled", ("view", 0)),
        ]

    run(world, use)


def test_a_producer_that_lets_others_go_first_does_not_change_the_order() -> None:
    """aiokafka's ``send_batch`` waits while its partition has a batch to send; whoever wakes first goes first."""
    world = World()
    send, waits = world.send_batch, iter([3, 0, 2, 0, 1, 0, 0, 0])

    async def send_later(batch: FakeBatch, topic: str, *, partition: int) -> asyncio.Future[Any]:
        for _ in range(next(waits, 0)):
            await asyncio.sleep(0)
        return await send(batch, topic, partition=partition)

    world.send_batch = send_later  # type: ignore[method-assign]
    numbered = [Settlement(effects([PutState(ANN, b"a%d" % n)]), [], {("view", 0): n}) for n in range(4)]

    async def use(checkpoint: Checkpoint) -> None:
        before: asyncio.Task[None] | None = None
        for settlement in numbered:
            before = asyncio.create_task(checkpoint.settle(settlement, before))
        assert before is not None
        await asyncio.wait_for(before, 5)

    run(world, use)
    assert [value for _, value, _ in world.sent["changelog", 0]] == [b"a0", b"a1", b"a2", b"a3"]
    assert world.offsets == {("view", 0): 3}


def test_after_a_failed_settlement_none_is_stored() -> None:
    world = World()
    world.failing["lists"] = ConnectionError("broker gone")
    second = Settlement(effects([PutState(ANN, b"a2")]), [], {("view", 0): 12})

    async def use(checkpoint: Checkpoint) -> None:
        before = asyncio.create_task(checkpoint.settle(FULL))
        with pytest.raises(ConnectionError, match="broker gone"):
            await checkpoint.settle(second, before)

    run(world, use)
    assert world.untouched


class OneAtATime:
    """A group with transactions."""

    exactly_once = True

    def __init__(self) -> None:
        self.open = 0

    def claims(self) -> dict[Any, int]:
        return {}

    @asynccontextmanager
    async def transaction(self, generation: int, offsets: Mapping[Any, int]) -> AsyncGenerator[None]:
        self.open += 1
        assert self.open == 1, "a transaction began while another was open"
        yield
        self.open -= 1


def test_transactions_do_not_overlap() -> None:
    world = World()
    world.held.add("changelog")
    settlement = FULL._replace(offsets={TP("view", 0): 11, TP("view", 3): 21})

    async def use(checkpoint: Checkpoint) -> None:
        before = asyncio.create_task(checkpoint.settle(settlement))
        after = asyncio.create_task(checkpoint.settle(settlement, before))
        await asyncio.sleep(0.05)
        assert len(world.pending) == 2, "of the second settlement something was sent"
        world.held.clear()
        world.release()
        await asyncio.wait_for(after, 5)

    run(world, use, OneAtATime())


class Noting(OneAtATime):
    """What each transaction commits."""

    def __init__(self) -> None:
        super().__init__()
        self.committed: list[dict[Any, int]] = []

    def transaction(self, generation: int, offsets: Mapping[Any, int]) -> Any:
        self.committed.append(dict(offsets))
        return super().transaction(generation, offsets)


def test_only_the_requests_wait_for_the_receipts() -> None:
    """Else a kill in between would make the lists and dead letters of a whole batch be committed twice."""
    world, group = World(), Noting()
    events, requests = {TP("view", 3): 21, TP("click", 0): 5}, {TP("erase", 3): 8}
    erased = Erase(BOB, (b"husk", b"h"), 8, (b"r", b"{}"))
    settlement = Settlement(effects([PutState(ANN, b"a1")])._replace(erasures=[erased]), [], {**events, **requests})

    async def use(checkpoint: Checkpoint) -> None:
        await checkpoint.settle(settlement)

    run(world, use, group)
    first, second = group.committed
    assert first == events
    assert second == {TP("view", 3): 21, **requests}  # and of its partition, so that it can be fenced
    assert [entry[0] for entry in world.log if entry[0] != "delivered"] == ["stored"] * 2 + ["scrubbed"] + [
        "settled"
    ] * 3
    assert world.offsets == settlement.offsets


class NoMember:
    """A group that this worker is no member of."""

    exactly_once = False

    def claims(self) -> dict[Any, int]:
        raise AssertionError("the group was asked")

    def transaction(self, generation: int, offsets: Mapping[Any, int]) -> Any:
        raise AssertionError("the group was asked")


def test_with_nothing_to_settle_the_group_is_not_asked_and_the_one_before_is_waited_for() -> None:
    # A worker that leaves before its first batch has no generation yet, and a transaction needs offsets.
    world, order = World(), list[str]()

    async def before() -> None:
        await asyncio.sleep(0.01)
        order.append("before")

    async def use(checkpoint: Checkpoint) -> None:
        await checkpoint.settle(Settlement(effects(), [], {}))
        await checkpoint.settle(Settlement(effects(), [], {}), before())
        order.append("after")

    run(world, use, NoMember())
    assert order == ["before", "after"]
    assert world.untouched


def test_a_store_that_fails_leaves_the_offsets() -> None:
    world = World()
    world.store_error = OSError("disk full")
    with pytest.raises(OSError, match="disk full"):
        settle(world, FULL)
    assert not world.offsets


def test_lists_go_to_the_partition_of_their_user_as_json() -> None:
    world = World()
    settle(world, FULL)
    json = [("content-type", b"application/json")]
    assert world.sent["lists", 0] == [(b"ann", b"la", json)]
    assert world.sent["lists", 1] == [(b"bob", b"lb", json)]  # 3 modulo the topic's 2 partitions


def test_a_dead_letter_is_the_record_as_it_was_a_tombstone_too() -> None:
    world = World()
    settle(world, Settlement(effects(dead=[letter(2, b"?"), letter(1, None, None)]), [], {("view", 2): 8}))
    first, second = world.sent["dead", 0]
    assert first[:2] == (b"k", b"?")
    assert second[:2] == (None, None)
    assert [dict(headers)["dl_partition"] for _, _, headers in (first, second)] == [b"2", b"1"]
    assert dict(first[2])["dl_code"] == b"schema"
    assert not world.stored
    assert world.offsets == {("view", 2): 8}


def test_a_record_that_is_larger_than_a_produce_batch_is_a_batch_of_its_own() -> None:
    world = World()
    sizes = [1, BATCH_BYTES_MAX + 1, 1, 1]
    puts = [PutState(UserKey(0, b"user-%d" % n), b"s" * size) for n, size in enumerate(sizes)]
    settle(world, Settlement(effects(puts), [], {("view", 0): 8}))
    assert [len(value or b"") for _, value, _ in world.sent["changelog", 0]] == sizes
    assert [entry[0] for entry in world.log] == ["delivered"] * 3 + ["stored", "settled"]


def test_the_fake_batch_takes_what_one_of_aiokafka_takes() -> None:
    def taken(batch: Any) -> list[bool]:
        values = [b"s" * (BATCH_BYTES_MAX + 1), b"s"]
        return [batch.append(key=b"k", value=value, timestamp=None, headers=[]) is not None for value in values]

    assert taken(FakeBatch()) == taken(BatchBuilder(BATCH_BYTES_MAX, 0)) == [True, False]


def test_a_dead_letter_of_a_key_that_is_too_large_is_cut() -> None:
    world = World()
    key = b"k" * (limits.dead_letter_record_bytes_max + 1)
    settle(world, Settlement(effects(dead=[letter(2, b"?", key)]), [], {("view", 2): 8}))
    ((sent_key, value, headers),) = world.sent["dead", 0]
    assert (sent_key, value) == (key[:-2], b"?")
    assert dict(headers)["dl_key_truncated_from"] == b"%d" % len(key)


def test_nothing_to_deliver_still_acknowledges() -> None:
    world = World()
    settle(world, Settlement(effects(), [], {("view", 0): 8}))
    assert world.log == [("settled", ("view", 0))]

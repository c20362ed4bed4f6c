"""What a transaction does with every answer of the broker and every way to leave it; the broker is a script."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# aiokafka keeps its transactions to itself, and is not typed throughout.

import asyncio
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    InvalidProducerIdMapping,
    InvalidTxnState,
    KafkaConnectionError,
    KafkaError,
    ProducerFenced,
    TransactionalIdAuthorizationFailed,
    UnknownError,
)
from aiokafka.producer.transaction_manager import TransactionState
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from operators import limits
from streams.protocol import GroupMember
from streams.transactions import FencedError, TransactionalProducer, _AddOffsets, _AddPartitions, fence_producer

MEMBER: Final = GroupMember("group", 7, "member-1")
VIEW, CLICK = TopicPartition("view", 0), TopicPartition("click", 0)
OWNER: Final = "app-transaction-1"
READY, OPEN, ABORTABLE = TransactionState.READY, TransactionState.IN_TRANSACTION, TransactionState.ABORTABLE_ERROR

Step = Callable[[], Coroutine[Any, Any, None]]


class Scripted(TransactionalProducer):
    """A producer with an id of its own, whose group takes offsets and whose transactions end at once.

    ``on_offsets``, ``on_commit`` and ``on_abort`` are what the broker does; each may raise or wait.
    """

    def __init__(self) -> None:
        super().__init__(OWNER, bootstrap_servers="127.0.0.1:1")
        self._closed = True  # nothing was opened
        self.calls: list[Any] = []
        self.manager: Any = self._txn_manager
        self.sender: Any = self._sender
        self.manager.set_pid_and_epoch(5, 2)
        self.on_offsets: Step = self.nothing
        self.on_commit: Step = self.nothing
        self.on_abort: Step = self.nothing

    async def nothing(self) -> None:
        """The broker agrees."""

    async def send_offsets_to_transaction(self, offsets: Any, group_id: str) -> None:
        self.calls.append(("offsets", offsets, group_id))
        await self.on_offsets()

    async def commit_transaction(self) -> None:
        self.manager.committing_transaction()
        self.calls.append("commit")
        await self.on_commit()
        self.manager.complete_transaction()

    async def abort_transaction(self) -> None:
        self.manager.aborting_transaction()
        self.calls.append("abort")
        await self.on_abort()
        self.manager.complete_transaction()


def scripted(use: Callable[[Scripted], Coroutine[Any, Any, None]]) -> Scripted:
    async def run() -> Scripted:
        producer = Scripted()
        await asyncio.wait_for(use(producer), 20)
        return producer

    return asyncio.run(run())


def raising(error: BaseException) -> Step:
    async def raises() -> None:
        raise error

    return raises


def test_offsets_name_their_owner_and_are_committed_after_what_is_sent() -> None:
    async def use(producer: Scripted) -> None:
        async with producer.transaction_of(MEMBER, {VIEW: 41, CLICK: 7}):
            assert producer.manager.state is OPEN
            producer.calls.append("sent")
            await asyncio.sleep(0)

    producer = scripted(use)
    named = {VIEW: OffsetAndMetadata(41, OWNER), CLICK: OffsetAndMetadata(7, OWNER)}
    assert producer.calls == ["sent", ("offsets", named, "group"), "commit"]
    assert producer.sender.member == MEMBER
    assert producer.manager.state is READY


def test_nothing_is_committed_before_the_group_has_taken_the_offsets() -> None:
    async def use(producer: Scripted) -> None:
        taken = asyncio.Event()
        producer.on_offsets = lambda: _wait(taken)
        transaction = asyncio.create_task(_empty(producer))
        await asyncio.sleep(0.05)
        assert producer.calls[-1] != "commit"
        assert not transaction.done()
        taken.set()
        await transaction
        assert producer.calls[-1] == "commit"

    scripted(use)


def test_what_fails_inside_is_aborted_and_told() -> None:
    async def use(producer: Scripted) -> None:
        with pytest.raises(KafkaConnectionError):
            async with producer.transaction_of(MEMBER, {VIEW: 41}):
                raise KafkaConnectionError

    producer = scripted(use)
    assert "commit" not in producer.calls
    assert producer.calls[-1] == "abort"
    assert producer.manager.state is READY


def test_offsets_of_a_generation_that_is_over_abort_what_was_sent() -> None:
    async def use(producer: Scripted) -> None:
        producer.on_offsets = raising(FencedError())
        with pytest.raises(FencedError):
            await _empty(producer)

    producer = scripted(use)
    assert [call for call in producer.calls if isinstance(call, str)] == ["abort"]


@pytest.mark.parametrize("error", [ProducerFenced(), InvalidTxnState()])
@pytest.mark.parametrize("step", ["on_offsets", "on_commit"])
def test_a_producer_whose_id_is_another_s_is_fenced(error: Exception, step: str) -> None:
    async def use(producer: Scripted) -> None:
        setattr(producer, step, raising(error))
        with pytest.raises(FencedError):
            await _empty(producer)
        assert "abort" not in producer.calls, "it has nothing to end any more"

    scripted(use)


def test_a_cancelled_batch_leaves_no_transaction_open_and_the_next_one_waits_for_that() -> None:
    async def use(producer: Scripted) -> None:
        aborted, inside = asyncio.Event(), asyncio.Event()
        producer.on_abort = lambda: _wait(aborted)

        async def batch() -> None:
            async with producer.transaction_of(MEMBER, {VIEW: 41}):
                inside.set()
                await asyncio.Event().wait()

        cut = asyncio.create_task(batch())
        await inside.wait()
        cut.cancel()
        await asyncio.sleep(0.01)
        following = asyncio.create_task(_empty(producer))
        await asyncio.sleep(0.05)
        assert "abort" in producer.calls
        assert "commit" not in producer.calls
        aborted.set()
        await following
        assert producer.calls[-1] == "commit"
        assert cut.cancelled()

    scripted(use)


def test_a_commit_on_its_way_is_waited_for_and_not_aborted() -> None:
    async def use(producer: Scripted) -> None:
        committing = asyncio.Event()

        async def on_commit() -> None:
            committing.set()
            await asyncio.Event().wait()

        producer.on_commit = on_commit
        cut = asyncio.create_task(_empty(producer))
        await committing.wait()
        cut.cancel()
        await asyncio.sleep(0.05)
        assert not cut.done()
        producer.manager.complete_transaction()  # the broker has answered
        await asyncio.gather(cut, return_exceptions=True)
        assert "abort" not in producer.calls

    scripted(use)


@pytest.mark.parametrize("how", ["hangs", "refused"])
def test_an_abort_that_does_not_come_to_an_end_hides_no_error(
    how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "abort_wait_s", 0.05)

    async def use(producer: Scripted) -> None:
        producer.on_abort = raising(UnknownError()) if how == "refused" else lambda: _wait(asyncio.Event())
        with pytest.raises(KafkaConnectionError):
            async with producer.transaction_of(MEMBER, {VIEW: 41}):
                raise KafkaConnectionError

    scripted(use)
    assert "could not be ended" in caplog.text


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


async def _empty(producer: TransactionalProducer) -> None:
    async with producer.transaction_of(MEMBER, {VIEW: 41}):
        pass


# -- the requests of a transaction, answered by a script


class Answers:
    """A client of aiokafka that answers every request with the same object."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.requests: list[Any] = []

    async def send(self, node_id: int, request: Any, **_: Any) -> Any:
        self.requests.append(request)
        return self.response


@contextmanager
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> Generator[list[float]]:
    """Notes the waits instead of waiting."""
    waited: list[float] = []

    async def sleep(seconds: float, *_: Any) -> None:
        waited.append(seconds)

    with monkeypatch.context() as patch:
        patch.setattr("aiokafka.producer.sender.asyncio.sleep", sleep)
        yield waited


def offsets_answered(*codes: int) -> Any:
    rows: list[Any] = [(partition, code, {}) for partition, code in enumerate(codes)]
    return SimpleNamespace(errors=[("view", rows, {})])


async def commit_offsets(producer: Scripted, response: Any) -> tuple[Answers, "asyncio.Future[None]"]:
    """Send the offsets of two partitions, of a transaction that is open, as aiokafka's sender task would."""
    sender, manager = producer.sender, producer.manager
    manager.begin_transaction()
    manager.consumer_group_added("group")
    offsets = {TopicPartition("view", n): OffsetAndMetadata(40 + n, OWNER) for n in range(2)}
    waiter = manager.add_offsets_to_txn(offsets, "group")
    sender.member = MEMBER
    sender.client = answers = Answers(response)

    async def found(*_: Any) -> int:
        return 1

    sender._find_coordinator = found
    await sender._do_txn_offset_commit(offsets, "group")
    return answers, waiter


def test_offsets_are_sent_as_a_member_of_the_generation() -> None:
    async def use(producer: Scripted) -> None:
        answers, waiter = await commit_offsets(producer, offsets_answered(0, 0))
        await waiter
        ((transaction, group, pid, epoch, generation, member, instance, topics, _),) = [
            request._fields for request in answers.requests
        ]
        assert (transaction, group, pid, epoch) == (OWNER, "group", 5, 2)
        assert (generation, member, instance) == (7, "member-1", None)
        assert [(topic, [row[:2] for row in rows]) for topic, rows, _ in topics] == [("view", [(0, 40), (1, 41)])]
        assert producer.manager.state is OPEN

    scripted(use)


@pytest.mark.parametrize("code", [22, 25, 27, 82])
def test_every_answer_to_a_member_that_is_none_is_a_fence_and_leaves_a_transaction_to_abort(code: int) -> None:
    async def use(producer: Scripted) -> None:
        _, waiter = await commit_offsets(producer, offsets_answered(0, code))
        with pytest.raises(FencedError):
            await waiter
        assert producer.manager.state is OPEN
        assert not producer.manager._pending_txn_offsets
        assert not producer.manager.is_empty_transaction(), "aiokafka would send no abort"
        await producer.abort_transaction()

    scripted(use)


@pytest.mark.parametrize("code", [14, 15, 16, 3])
def test_a_coordinator_that_is_away_is_asked_again(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(producer: Scripted) -> None:
        with no_backoff(monkeypatch) as waited:
            _, waiter = await commit_offsets(producer, offsets_answered(code, code))
        assert not waiter.done()
        assert len(producer.manager._pending_txn_offsets) == 1
        assert waited

    scripted(use)


def test_other_refusals_of_offsets_are_told_as_what_they_are() -> None:
    async def fenced(producer: Scripted) -> None:
        with pytest.raises(ProducerFenced):
            await commit_offsets(producer, offsets_answered(47, 47))

    async def forbidden(producer: Scripted) -> None:
        _, waiter = await commit_offsets(producer, offsets_answered(30, 30))
        with pytest.raises(GroupAuthorizationFailedError):
            await waiter

    async def not_this_id(producer: Scripted) -> None:
        with pytest.raises(TransactionalIdAuthorizationFailed):
            await commit_offsets(producer, offsets_answered(53, 53))

    for use in (fenced, forbidden, not_this_id):
        scripted(use)


def test_a_group_that_may_not_be_read_is_told_to_the_batch() -> None:
    async def use(producer: Scripted) -> None:
        async def refused(*_: Any) -> int:
            raise GroupAuthorizationFailedError("group")

        producer.manager.begin_transaction()
        waiter = producer.manager.add_offsets_to_txn({VIEW: OffsetAndMetadata(1, OWNER)}, "group")
        producer.sender._find_coordinator = refused
        await producer.sender._do_txn_offset_commit({}, "group")
        with pytest.raises(GroupAuthorizationFailedError):
            await waiter

    scripted(use)


@pytest.mark.parametrize(("code", "wait_s"), [(51, 0.002), (14, 0.01), (0, None)])
def test_a_transaction_before_that_is_being_written_out_is_asked_after_soon(code: int, wait_s: float | None) -> None:
    async def use(producer: Scripted) -> None:
        manager, sender = producer.manager, producer.sender
        manager.begin_transaction()
        manager.maybe_add_partition_to_txn(VIEW)
        partitions = SimpleNamespace(errors=[("view", [(0, code)])])
        assert _AddPartitions(sender, {VIEW}).handle_response(partitions) == wait_s
        assert _AddOffsets(sender, "group").handle_response(SimpleNamespace(error_code=code)) == wait_s

    scripted(use)


@pytest.mark.parametrize("error", [InvalidTxnState, InvalidProducerIdMapping])
def test_all_the_broker_s_words_for_a_transaction_that_was_ended_for_it_are_one(
    error: type[KafkaError], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(producer: Scripted) -> None:
        async def refused(*_: Any) -> None:
            raise error

        async def found(*_: Any) -> int:
            return 1

        sender = producer.sender
        sender._find_coordinator = found
        for handler in (_AddPartitions, _AddOffsets):
            monkeypatch.setattr(handler, "do", refused)
        monkeypatch.setattr("aiokafka.producer.sender.Sender._do_txn_commit", refused)
        for request in (
            sender._do_add_partitions_to_txn({VIEW}),
            sender._do_add_offsets_to_txn("group"),
            sender._do_txn_commit(None),
        ):
            with pytest.raises(ProducerFenced):
                await request

    scripted(use)


@pytest.mark.parametrize("error", [None, KafkaConnectionError("nobody there")])
def test_to_fence_an_owner_is_to_begin_with_its_id_and_to_close(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    async def start(self: Any) -> None:
        calls.append(("start", self._txn_manager.transactional_id))
        if error is not None:
            raise error

    async def stop(self: Any) -> None:
        self._closed = True
        calls.append("stop")

    monkeypatch.setattr(AIOKafkaProducer, "start", start)
    monkeypatch.setattr(AIOKafkaProducer, "stop", stop)

    async def fence() -> None:
        await fence_producer({"bootstrap_servers": "127.0.0.1:1"}, "owner before")

    if error is None:
        asyncio.run(fence())
    else:
        with pytest.raises(KafkaConnectionError):
            asyncio.run(fence())
    assert calls == [("start", "owner before"), "stop"]

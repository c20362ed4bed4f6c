"""What a transaction does with every way to leave it; the broker is a script."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# aiokafka keeps its transactions to itself, and is not typed throughout.

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTxnState,
    KafkaConnectionError,
    ProducerFenced,
    UnknownError,
)
from aiokafka.producer.sender import Sender
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from operators import limits
from streams.transactions import FencedError, TransactionalProducer, fence_producer
from tests.unit.transaction_bench import CLICK, MEMBER, OPEN, OWNER, READY, VIEW, Scripted, raising, scripted


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
        with pytest.raises(FencedError, match=r"^another worker has taken"):
            await _empty(producer)

    producer = scripted(use)
    assert [call for call in producer.calls if isinstance(call, str)] == ["abort"]


@pytest.mark.parametrize("error", [ProducerFenced(), InvalidTxnState()])
@pytest.mark.parametrize("step", ["on_offsets", "on_commit"])
def test_a_producer_whose_id_is_another_s_is_fenced(error: Exception, step: str) -> None:
    async def use(producer: Scripted) -> None:
        setattr(producer, step, raising(error))
        with pytest.raises(FencedError, match=r"not committed within 60 s.* or another worker has taken"):
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


_ENDED = [
    "begin",
    ("partitions", {VIEW, CLICK}),
    ("partitions", {VIEW}),
    ("offsets of", "the group"),
    ("offsets of", "the group"),
    "abort",
]


@pytest.mark.parametrize(
    ("error", "last_answer", "between"),
    [
        (None, True, _ENDED),
        (KafkaConnectionError("nobody there"), True, []),
        (None, None, _ENDED[:-1]),  # it never comes
        (None, ProducerFenced(), _ENDED[:-1]),  # another worker does the same
    ],
)
def test_to_fence_an_owner_is_to_begin_with_its_id_to_abort_what_it_may_have_left_and_to_close(
    error: Exception | None, last_answer: Any, between: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    answers = iter([False, last_answer])

    async def start(self: Any) -> None:
        calls.append(("start", self._txn_manager.transactional_id))
        if error is not None:
            raise error

    async def begin(self: Any) -> None:
        calls.append("begin")

    async def add_partitions(self: Any, tps: set[TopicPartition]) -> bool:
        calls.append(("partitions", set(tps)))
        tps.discard(next(iter(sorted(tps))))  # the broker has taken one
        return not tps

    async def add_offsets(self: Any, group_id: str) -> bool:
        calls.append(("offsets of", group_id))
        answer = next(answers)
        if answer is None:
            await asyncio.sleep(60)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def abort(self: Any) -> None:
        calls.append("abort")

    async def stop(self: Any) -> None:
        self._closed = True
        calls.append("stop")

    monkeypatch.setattr(limits, "abort_wait_s", 0.2)
    monkeypatch.setattr(AIOKafkaProducer, "start", start)
    monkeypatch.setattr(AIOKafkaProducer, "begin_transaction", begin)
    monkeypatch.setattr(Sender, "_do_add_partitions_to_txn", add_partitions)
    monkeypatch.setattr(Sender, "_do_add_offsets_to_txn", add_offsets)
    monkeypatch.setattr(AIOKafkaProducer, "abort_transaction", abort)
    monkeypatch.setattr(AIOKafkaProducer, "stop", stop)

    async def fence() -> None:
        await fence_producer({"bootstrap_servers": "127.0.0.1:1"}, "owner before", "the group", [VIEW, CLICK])

    if error is None:
        asyncio.run(fence())
    else:
        with pytest.raises(KafkaConnectionError):
            asyncio.run(fence())
    assert calls == [("start", "owner before"), *between, "stop"]

"""What the requests of a transaction make of every answer of the broker, which is a script."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# aiokafka keeps its transactions to itself, and is not typed throughout.

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    InvalidProducerIdMapping,
    InvalidTxnState,
    KafkaError,
    ProducerFenced,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from streams.transactions import FencedError, _AddOffsets, _AddPartitions
from tests.unit.transaction_bench import MEMBER, OPEN, OWNER, VIEW, Scripted, scripted


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

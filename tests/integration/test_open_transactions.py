"""A transaction that stays open on a real broker: ours leave none, and readers wait for nobody's."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportPrivateUsage=false
# aiokafka is not typed throughout.

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, cast

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import TopicPartition

from streams.clients.errors import ClientError
from streams.clients.kafka import Partition, admin, consumer
from streams.clients.reading import end_offsets, read, settled_ends
from streams.protocol import GroupMember
from streams.settings import Settings
from streams.transactions import TransactionalProducer, fence_producer
from tests.integration.harness import WorkerProcess, admin_client, create_topics, new_settings, run

_STEPS: Final = 12
"""Moments of a transaction at which it is cancelled: it takes about 15 ms on an idle machine."""
_STEP_S: Final = 0.002
_OVER: Final = ("Empty", "CompleteCommit", "CompleteAbort")


def _unended(settings: Settings) -> list[str]:
    """Transactions of the group that the broker does not know to be over, by its own list."""
    with admin(settings.broker) as client:
        listed: Any = cast(Any, client).list_transactions()
    ours = [
        found for of_node in listed.values() for found in of_node if settings.worker.app_id in found.transactional_id
    ]
    assert ours
    return [found.transactional_id for found in ours if found.state.value not in _OVER]


async def _cancelled(settings: Settings, after_s: float) -> bool:
    """Whether a transaction of offsets and a record was cancelled; the one after it must go through."""
    group = settings.worker.app_id
    producer = TransactionalProducer(f"{group}-{after_s:g}", bootstrap_servers=settings.broker.address)
    await producer.start()

    async def once() -> None:
        async with producer.transaction_of(GroupMember(group, -1, ""), {(settings.topics.view, 0): 1}):
            await producer.send_and_wait(settings.topics.recommendations, b"{}", key=b"u", partition=0)

    try:
        await once()
        task = asyncio.create_task(once())
        await asyncio.sleep(after_s)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await once()
        return task.cancelled()
    finally:
        await producer.stop()


@pytest.mark.kafka
def test_a_transaction_that_is_cancelled_is_ended(kafka: str, tmp_path: Path) -> None:
    settings = new_settings(kafka, tmp_path)
    create_topics(settings)
    cancelled = [run(_cancelled(settings, _STEP_S * step)) for step in range(_STEPS)]
    assert sum(cancelled) > 1
    assert _unended(settings) == []


@pytest.mark.kafka
def test_a_worker_that_ends_while_it_takes_its_partitions_leaves_none(kafka: str, tmp_path: Path) -> None:
    settings = new_settings(kafka, tmp_path, delivery="exactly_once")
    create_topics(settings)
    for attempt in range(4):
        worker = WorkerProcess(settings, tmp_path).start()
        while b"restored " not in worker.log():
            assert worker.is_running(), worker.log_tail()
            time.sleep(0.001)
        time.sleep(0.004 * (attempt + 1))  # between them, the claim and what would be a transaction of it
        assert worker.terminate() == 0, worker.log_tail()
        assert _unended(settings) == []


@asynccontextmanager
async def _left_open(settings: Settings, topic: str) -> AsyncGenerator[AIOKafkaProducer]:
    """One committed record, and another in a transaction that nobody ends."""
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.broker.address, transactional_id=f"stranger-{settings.worker.app_id}"
    )
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait(topic, b"committed", key=b"u", partition=0)
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"open", key=b"u", partition=0)
        yield producer
    finally:
        await producer.stop()


@pytest.mark.kafka
def test_readers_end_before_a_transaction_that_stays_open(kafka: str, tmp_path: Path) -> None:
    settings = new_settings(kafka, tmp_path)
    create_topics(settings)
    topic = settings.topics.recommendations
    at = Partition(topic, 0)

    def values() -> list[bytes | None]:
        with consumer(settings.broker) as client:
            return [record.value for record in read(client, {at: 0}, end_offsets(client, [at]))]

    async def scenario() -> None:
        async with _left_open(settings, topic) as producer:
            assert await asyncio.to_thread(values) == [b"committed"]
            with consumer(settings.broker) as client, pytest.raises(ClientError, match=r"partitions \[0\] are held"):
                await asyncio.to_thread(settled_ends, client, [at], 0.5)
            await producer.abort_transaction()
            with consumer(settings.broker) as client:
                assert (await asyncio.to_thread(settled_ends, client, [at], 10.0))[at] > 1
            assert await asyncio.to_thread(values) == [b"committed"]

    run(scenario())


async def _verifies(settings: Settings, *, is_on: bool) -> None:
    """Whether the broker asks, before it takes a record, if the transaction of it goes on."""
    async with admin_client(settings) as client:
        configs = {"transaction.partition.verification.enable": str(is_on).lower()}
        await client.alter_configs([ConfigResource(ConfigResourceType.BROKER, "1", configs=configs)])


async def _taken_too_late(settings: Settings, owner: str, at: TopicPartition) -> None:
    """A record that the broker takes after its transaction was aborted: of another one, as far as the log tells."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.broker.address, transactional_id=owner)
    await producer.start()
    manager: Any = producer._txn_manager
    try:
        await producer.begin_transaction()
        await producer.send_and_wait(at.topic, b"aborted", key=b"u", partition=at.partition)
        await producer.abort_transaction()
        await _verifies(settings, is_on=False)
        await asyncio.sleep(1.0)  # it takes note when it gets to it
        manager.begin_transaction()
        manager._txn_partitions.add(at)  # nobody tells the coordinator
        await producer.send_and_wait(at.topic, b"late", key=b"u", partition=at.partition)
    finally:
        await producer.stop()
        await _verifies(settings, is_on=True)


@pytest.mark.kafka
def test_what_a_broker_took_too_late_is_ended_with_its_owner(kafka: str, tmp_path: Path) -> None:
    settings = new_settings(kafka, tmp_path)
    create_topics(settings)
    topic, group = settings.topics.recommendations, settings.worker.app_id
    owner, arguments = f"owner-{group}", {"bootstrap_servers": settings.broker.address}

    def settle() -> None:
        with consumer(settings.broker) as client:
            settled_ends(client, [Partition(topic, 0)], 1.0)

    async def scenario() -> None:
        at = TopicPartition(topic, 0)
        await _taken_too_late(settings, owner, at)
        await fence_producer(arguments, owner, group, [])
        with pytest.raises(ClientError, match=r"partitions \[0\] are held"):
            await asyncio.to_thread(settle)
        assert _unended(settings) == []
        await fence_producer(arguments, owner, group, [at])
        await asyncio.to_thread(settle)

    run(scenario())
    with consumer(settings.broker) as client:
        at = Partition(topic, 0)
        assert [record.value for record in read(client, {at: 0}, end_offsets(client, [at]))] == []

"""A broker with topics of its own for every test, workers in processes of their own, and ways to read back."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# aiokafka is not typed throughout.

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.partitioner import murmur2

from streams import worker_process
from streams.chaos.oracle import Place
from streams.chaos.scratch import KAFKA_PROPERTIES, scratch_settings
from streams.settings import BrokerSettings, Settings
from streams.topics import topic_specs

__all__ = [
    "KAFKA_PROPERTIES",
    "Outgoing",
    "Place",
    "Producer",
    "WorkerProcess",
    "admin_client",
    "committed",
    "create_topics",
    "new_settings",
    "partition_of",
    "read_topic",
    "run",
    "send_of_users",
    "wait_settled",
]

_FLUSH_INTERVAL_S: Final = 0.3


class Outgoing(NamedTuple):
    """A record to produce; ``partition`` None means that of the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None


def run(coroutine: Coroutine[Any, Any, Any], timeout_s: float = 120.0) -> Any:
    """The coroutine's result, from code that has no event loop."""

    async def limited() -> Any:
        return await asyncio.wait_for(coroutine, timeout_s)

    return asyncio.run(limited())


def partition_of(key: bytes, partitions: int) -> int:
    """Kafka's default partitioner, from the client and not from the code under test."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def new_settings(address: str, home: Path, *, partitions: int = 4, **worker: Any) -> Settings:
    """Settings with topics and a group that no other test uses; ``worker`` overrides fields of that section."""
    return scratch_settings(BrokerSettings(address=address), home, partitions=partitions, **worker)


@asynccontextmanager
async def admin_client(settings: Settings) -> AsyncGenerator[AIOKafkaAdminClient]:
    """A client for what is no test's own subject: topics, configurations, offsets."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.broker.address)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def _create_topics(settings: Settings, without: Sequence[str], partitions: dict[str, int]) -> None:
    async with admin_client(settings) as admin:
        specs = [spec for spec in topic_specs(settings.topics, settings.worker.app_id) if spec.name not in without]
        await admin.create_topics(
            [
                NewTopic(spec.name, partitions.get(spec.name, spec.partitions), 1, topic_configs=spec.config)
                for spec in specs
            ]
        )


def create_topics(settings: Settings, without: Sequence[str] = (), partitions: dict[str, int] | None = None) -> None:
    """Create the topics but those in ``without``; ``partitions`` overrides the count of some by name."""
    run(_create_topics(settings, without, partitions or {}))


class Producer:
    """Produces whole batches; knows the place of every record."""

    def __init__(self, settings: Settings, *, round_records: int = 500) -> None:
        """``round_records``: records that are grouped by partition and sent together; the grain of the topics' mix."""
        self._settings = settings
        self._round_records = round_records

    async def send(self, records: Sequence[Outgoing]) -> list[Place]:
        """Produce in order; returns the places in the order of the records."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self._settings.broker.address, max_batch_size=1 << 19, max_request_size=4 << 20
        )
        await producer.start()
        try:
            places: list[Place] = []
            for start in range(0, len(records), self._round_records):
                places += await self._round(producer, records[start : start + self._round_records])
            return places
        finally:
            await producer.stop()

    async def _round(self, producer: AIOKafkaProducer, records: Sequence[Outgoing]) -> list[Place]:
        groups: dict[tuple[str, int], list[int]] = {}
        for n, record in enumerate(records):
            partition = record.partition
            if partition is None:
                partition = partition_of(record.key or b"", self._settings.topics.partitions)
            groups.setdefault((record.topic, partition), []).append(n)
        places: list[Place | None] = [None] * len(records)
        for (topic, partition), members in groups.items():
            for batch, part in self._batches(producer, [(n, records[n]) for n in members]):
                sent = await (await producer.send_batch(batch, topic, partition=partition))
                for at, member in enumerate(part):
                    places[member] = Place(topic, partition, sent.offset + at)
        return [place for place in places if place is not None]

    def _batches(
        self, producer: AIOKafkaProducer, records: Sequence[tuple[int, Outgoing]]
    ) -> list[tuple[Any, list[int]]]:
        batches: list[tuple[Any, list[int]]] = []
        for n, record in records:
            fields = {"key": record.key, "value": record.value, "timestamp": record.timestamp_ms}
            headers = list(record.headers)
            if not batches or batches[-1][0].append(**fields, headers=headers) is None:
                batches.append((producer.create_batch(), []))
                assert batches[-1][0].append(**fields, headers=headers) is not None
            batches[-1][1].append(n)
        for batch, _ in batches:
            batch.close()
        return batches


async def _read(address: str, topic: str, partitions: int) -> list[Any]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=address,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
        fetch_max_wait_ms=50,
        max_partition_fetch_bytes=16 << 20,
    )
    await consumer.start()
    try:
        tps = [TopicPartition(topic, partition) for partition in range(partitions)]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        read: list[Any] = []

        async def at_end() -> bool:
            # The high watermark of a fetch: the embedded broker's answer to ListOffsets(latest) is too low.
            for tp in tps:
                end = consumer.highwater(tp)
                if end is None or await consumer.position(tp) < end:
                    return False
            return True

        while not await at_end():
            for records in (await consumer.getmany(timeout_ms=50)).values():
                read += records
        return read
    finally:
        await consumer.stop()


def read_topic(settings: Settings, topic: str, partitions: int | None = None, timeout_s: float = 120.0) -> list[Any]:
    """Every record of a topic, in order within each partition."""
    return run(_read(settings.broker.address, topic, partitions or settings.topics.partitions), timeout_s)


async def _committed(settings: Settings) -> dict[tuple[str, int], int]:
    async with admin_client(settings) as admin:
        wanted = [
            TopicPartition(topic, partition)
            for topic in settings.topics.events
            for partition in range(settings.topics.partitions)
        ]
        try:
            offsets = await admin.list_consumer_group_offsets(settings.worker.app_id, partitions=wanted)
        except GroupCoordinatorNotAvailableError:  # of a broker that has had no group yet
            return {}
        return {(tp.topic, tp.partition): found.offset for tp, found in offsets.items()}


def committed(settings: Settings) -> dict[tuple[str, int], int]:
    """Offsets that the worker's group has committed, -1 for none, by topic and partition."""
    return run(_committed(settings))


def send_of_users(settings: Settings, topic: str, users: int) -> dict[tuple[str, int], int]:
    """Send one event of each of so many users, at the same moment; returns the offset behind each partition's last."""
    body = '{"user_id": "user-%d", "item_id": "1082185", "timestamp": 1767225600000}'
    events = [Outgoing(topic, b"user-%d" % user, (body % user).encode()) for user in range(users)]
    ends: dict[tuple[str, int], int] = {}
    for place in run(Producer(settings).send(events)):
        ends[place.topic, place.partition] = max(place.offset + 1, ends.get((place.topic, place.partition), 0))
    return ends


def wait_settled(
    settings: Settings,
    ends: dict[tuple[str, int], int],
    timeout_s: float,
    workers: Iterable[worker_process.WorkerProcess] = (),
) -> None:
    """Return when the group has committed ``ends``; fails when a worker exits or time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        offsets = committed(settings)
        behind = {tp: (offsets.get(tp, -1), end) for tp, end in ends.items() if offsets.get(tp, -1) != end}
        if not behind:
            return
        for worker in workers:
            assert worker.is_running(), f"a worker ended:\n{worker.log_tail()}"
        tails = "".join(worker.log_tail() for worker in workers)
        assert time.monotonic() < deadline, f"not committed (has, wants): {behind}\n{tails}"
        time.sleep(0.2)


class WorkerProcess(worker_process.WorkerProcess):
    """A worker that flushes often: killed, it leaves a part of its state on disk."""

    def __init__(self, settings: Settings, home: Path, name: str = "worker") -> None:
        super().__init__(settings, home, name, flush_interval_s=_FLUSH_INTERVAL_S)

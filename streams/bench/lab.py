"""A scratch broker with a backlog on it, and processes that are measured while they work through it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from infra.broker import BrokerKind, start
from operators.events import JSON_HEADERS
from operators.partition import partition_of
from streams.clients.errors import ClientError
from streams.importers.source import COMPLETE_JOURNEY, Period, open_source
from streams.topics import TopicSpec

__all__ = [
    "PURCHASE",
    "Backlog",
    "BenchError",
    "Lab",
    "Process",
    "StoredRecord",
    "backlog_of",
    "batches_of",
    "fill_topics",
    "laboratory",
    "python",
    "read_purchases",
    "subprocess_environment",
]

PURCHASE: Final = 2
"""Index of the one event type that the data set has."""

_POLL_S: Final = 0.5
_LEADER_S: Final = 1.0
"""New partitions are announced a moment before their leader takes records."""
_STALL_S_MAX: Final = 90.0
_STOP_S_MAX: Final = 20.0
_LOG_TAIL_CHARS: Final = 1_500
_PRODUCE_BYTES: Final = 256 * 1024
_READ_RECORDS: Final = 10_000
_READ_STALL_S: Final = 15.0

Outgoing = tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes]]]


class BenchError(ClientError):
    """A measurement that cannot be had; the message says why and what to do."""


class StoredRecord(NamedTuple):
    """A record as the core reads it."""

    offset: int
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]


class Backlog(NamedTuple):
    """Events that lie in the topics; ``records[partition][offset]`` is the record there."""

    topics: tuple[str, str, str]
    records: list[list[StoredRecord]]
    events: int


def read_purchases(count: int | None) -> list[tuple[bytes, bytes]]:
    """Key and value of the first ``count`` purchases of Complete Journey in event-time order, as a replay sends them.

    None is all of them.

    Raises:
        BenchError: the data set has fewer.
        ModelError: the data set is not installed.
    """
    with open_source(COMPLETE_JOURNEY, "auto", Period(), skip_bad=False) as source:
        if count is not None and count > source.total:
            raise BenchError(f"{count} events are asked for, the data set has {source.total}; lower --events")
        return [(event.key, event.value) for event in islice(source.events(0), count)]


def backlog_of(prefix: str, events: Sequence[tuple[bytes, bytes]], partitions: int) -> Backlog:
    """Events as records of the purchase topic, partitioned as every Kafka client does by default."""
    topics = (f"{prefix}-view", f"{prefix}-click", f"{prefix}-purchase")
    records: list[list[StoredRecord]] = [[] for _ in range(partitions)]
    for key, value in events:
        part = records[partition_of(key, partitions)]
        part.append(StoredRecord(len(part), key, value, JSON_HEADERS))
    return Backlog(topics, records, len(events))


class Lab:
    """One broker and a scratch directory. Every process is started in the directory, so that no settings leak in."""

    def __init__(
        self,
        kind: BrokerKind,
        address: str,
        home: Path,
        broker_pid: int | None = None,
        broker_dir: Path | None = None,
    ) -> None:
        self.kind: BrokerKind = kind
        self.address = address
        self.home = home
        self.broker_pid = broker_pid
        self._directories = [home] if broker_dir is None else [home, broker_dir]
        self._filled: set[str] = set()

    @property
    def list_config(self) -> dict[str, str]:
        """Configuration of a topic of lists: the broker's clock stamps each append, whoever produces."""
        return {"message.timestamp.type": "LogAppendTime"} if self.kind == "kafka" else {}

    async def create(self, specs: Sequence[TopicSpec]) -> None:
        """Create topics that do not exist yet."""
        async with self._admin() as admin:
            wanted = [NewTopic(spec.name, spec.partitions, 1, topic_configs=dict(spec.config)) for spec in specs]
            response = await admin.create_topics(wanted)
        failed = [error for error in response.to_object()["topic_errors"] if error["error_code"]]
        if failed:
            raise BenchError(f"the broker did not create {failed[0]['topic']}: error code {failed[0]['error_code']}")
        await asyncio.sleep(_LEADER_S)

    async def fill(self, topic: str, records: Sequence[Sequence[StoredRecord]]) -> None:
        """Produce the records of each partition, in order."""
        self._filled.add(topic)
        async with self.producer() as producer:
            pending: list[Any] = []
            for partition, part in enumerate(records):
                for batch in batches_of(producer, [(r.key, r.value, r.headers) for r in part]):
                    pending.append(await producer.send_batch(batch, topic, partition=partition))
            for future in pending:
                await future

    def settle(self) -> None:
        """Have what earlier turns wrote on the disk, and out of the system's file cache but for what was filled in.

        It would be written during a later turn. And a cache that grows takes memory that was never used before, which
        on a virtual machine costs microseconds a page: the first turns would be the fastest.
        """
        os.sync()
        for top in self._directories:
            for directory, _, files in os.walk(top):  # which takes no offence at what goes meanwhile
                if Path(directory).name.rpartition("-")[0] not in self._filled:
                    for file in files:
                        _drop_cached(Path(directory, file))

    async def read(self, topic: str, partitions: int) -> list[Any]:
        """Every record of a topic, as aiokafka gives it; markers of transactions are none."""
        async with self.consumer(topic, partitions) as consumer:
            ends = await consumer.end_offsets([TopicPartition(topic, n) for n in range(partitions)])
            records: list[Any] = []
            deadline = time.monotonic() + _READ_STALL_S
            while behind := [tp for tp, end in ends.items() if await consumer.position(tp) < end]:
                fetched = await consumer.getmany(timeout_ms=500, max_records=_READ_RECORDS)
                for part in fetched.values():
                    records.extend(part)
                    deadline = time.monotonic() + _READ_STALL_S
                if time.monotonic() > deadline:
                    raise BenchError(f"{topic}: {len(behind)} partitions end early; the broker's log may say why")
        return records

    async def ends(self, topic: str, partitions: int) -> int:
        """Records of a topic, markers of transactions counted."""
        async with self.consumer(topic, partitions) as consumer:
            return sum((await consumer.end_offsets([TopicPartition(topic, n) for n in range(partitions)])).values())

    async def wait_for_group(self, group: str, backlog: Backlog, process: "Process") -> None:
        """Return when the group has committed the whole backlog.

        Raises:
            BenchError: the process ended, or nothing was committed for a long time.
        """
        events, before, since = backlog.events, -1, time.monotonic()
        partitions = [TopicPartition(backlog.topics[PURCHASE], n) for n in range(len(backlog.records))]
        async with self._admin() as admin:
            while True:
                done = await _committed(admin, group, partitions)
                if done >= events:
                    return
                if done != before:
                    before, since = done, time.monotonic()
                if not process.is_running:
                    raise BenchError(f"{group} ended at {done} of {events} events; its log ends: {process.log_tail()}")
                if time.monotonic() - since > _STALL_S_MAX:
                    raise BenchError(f"{group} stands at {done} of {events} events; its log ends: {process.log_tail()}")
                await asyncio.sleep(_POLL_S)

    @contextmanager
    def running(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Generator["Process"]:
        """A process in the scratch directory; SIGTERM on leaving, SIGKILL where that does not help."""
        log_file = self.home / f"{name}.log"
        with log_file.open("wb") as log:
            child = subprocess.Popen(
                command, cwd=self.home, env=dict(environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            yield Process(child, log_file)
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(signal.SIGTERM)
            try:
                child.wait(_STOP_S_MAX)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    @asynccontextmanager
    async def producer(self) -> AsyncGenerator[Any]:
        """An aiokafka producer with the worker's settings."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.address, acks=-1, linger_ms=0, max_batch_size=2 * _PRODUCE_BYTES
        )
        await producer.start()
        try:
            yield producer
        finally:
            await producer.stop()

    @asynccontextmanager
    async def consumer(self, topic: str, partitions: int) -> AsyncGenerator[Any]:
        """An aiokafka consumer of all partitions of a topic, from the beginning, in no group."""
        consumer: Any = AIOKafkaConsumer(
            bootstrap_servers=self.address,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
        )
        await consumer.start()
        try:
            consumer.assign([TopicPartition(topic, n) for n in range(partitions)])
            yield consumer
        finally:
            await consumer.stop()

    @asynccontextmanager
    async def _admin(self) -> AsyncGenerator[Any]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.address)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()


async def fill_topics(lab: Lab, backlog: Backlog) -> None:
    """Create the event topics of a backlog and put it there."""
    partitions = len(backlog.records)
    await lab.create([TopicSpec(topic, partitions, {"cleanup.policy": "delete"}) for topic in backlog.topics])
    await lab.fill(backlog.topics[PURCHASE], backlog.records)


def _drop_cached(file: Path) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    with contextlib.suppress(OSError):  # a broker deletes files at its own time
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


class Process:
    """A measured process."""

    def __init__(self, child: "subprocess.Popen[bytes]", log_file: Path) -> None:
        self._child = child
        self._log_file = log_file

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    def log_tail(self) -> str:
        """The end of its output."""
        return self._log_file.read_text(errors="replace")[-_LOG_TAIL_CHARS:].strip() or "(nothing)"


async def _committed(admin: Any, group: str, partitions: list[Any]) -> int:
    try:
        offsets: Mapping[Any, Any] = await admin.list_consumer_group_offsets(group, partitions=partitions)
    except KafkaError as error:
        if not error.retriable:
            raise
        return 0  # the broker makes its offsets topic for the first group
    return sum(max(at.offset, 0) for at in offsets.values())


def batches_of(producer: Any, records: Sequence[Outgoing]) -> list[Any]:
    """Records as full produce batches of one partition, closed."""
    batches: list[Any] = []
    size = _PRODUCE_BYTES
    for key, value, headers in records:
        if size >= _PRODUCE_BYTES:
            batches.append(producer.create_batch())
            size = 0
        batches[-1].append(key=key, value=value, timestamp=None, headers=list(headers))
        size += len(value or b"") + len(key or b"")
    for batch in batches:
        batch.close()
    return batches


def subprocess_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Ours without any setting of Headwater, one thread for every numeric library, and ``extra``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (root, kept.get("PYTHONPATH")) if part)
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **extra}


def python(*arguments: str) -> list[str]:
    """A command that runs this interpreter."""
    return [sys.executable, *arguments]


@contextmanager
def laboratory(kind: BrokerKind) -> Generator[Lab]:
    """A broker of its own and a scratch directory; both go on leaving.

    Raises:
        BrokerError: the broker does not start.
    """
    with tempfile.TemporaryDirectory(prefix="headwater-bench-") as home, start(kind) as broker:
        yield Lab(kind, broker.address, Path(home), broker.pid, broker.data_dir)

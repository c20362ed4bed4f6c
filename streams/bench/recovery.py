"""``headwater bench recovery``: how fast a worker comes back, with nothing on its disk and with everything.

The changelog is filled with one state of real size for each of N made-up users. Then the same worker starts three
times: on an empty disk (a restore of everything, with a kill -9 when it is ready), on the disk that the kill left (a
restore of what was not flushed), and after an orderly end (nothing to read). The states are compared in the end.
Beside it stand the two halves of a restore alone: reading the changelog, and writing as much to an empty store.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from aiokafka.structs import TopicPartition
from rich.console import Console
from rich.table import Table

from infra.broker import BrokerKind
from operators import state
from operators.partition import partition_of
from operators.state import UserState
from streams.bench.lab import BenchError, Lab, batches_of, laboratory
from streams.bench.runs import create_topics, serving
from streams.bench.summary import machine, versions
from streams.connection import new_changelog_consumer
from streams.records import packed_records_handed_on
from streams.settings import BrokerSettings, WorkerSettings
from streams.store import StateStore
from streams.topics import changelog_topic

__all__ = ["RecoveryOptions", "run", "show"]

_STATE_FLOATS: Final = 512
_STATES: Final = 500
"""Different values; a state is as hard to compress as another."""
_SLICE_USERS: Final = 20_000
_CHECKED_USERS: Final = 1_000
_GROUP: Final = "recovery"
_POLL_MS: Final = 200
_BATCH_USERS: Final = 8_000
_CACHE_MB: Final = WorkerSettings().block_cache_mb
_BUFFER_MB: Final = WorkerSettings().write_buffer_mb

Echo = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """What to measure."""

    users: int = 1_000_000
    broker: BrokerKind = "kafka"
    partitions: int = 8


class _Start(NamedTuple):
    """One start of the worker."""

    ready_s: float
    """From the start of the process until it processed events."""
    restored_records: int
    restore_s: float


class _Ceilings(NamedTuple):
    """What each half of a restore takes alone, in a process of its own."""

    reading_s: float
    writing_s: float


def run(options: RecoveryOptions, echo: Echo) -> dict[str, Any]:
    """Measure; the result is what ``--json`` prints. ``echo`` gets a line of progress before every step.

    Raises:
        BenchError: an option that cannot be measured with, or a run that failed.
        BrokerError: the broker does not start.
    """
    if options.users < options.partitions:
        raise BenchError(f"--users must be {options.partitions} or more")
    values = _states()
    with laboratory(options.broker) as lab:
        topics = asyncio.run(
            create_topics(lab, _GROUP, ("view", "click", "purchase"), options.partitions, create_events=True)
        )
        echo(f"writing {options.users:,} states of {len(values[0])} bytes to the changelog")
        asyncio.run(_fill(lab, options, values))
        starts: dict[str, _Start] = {}
        for kind in ("cold", "killed", "warm"):
            echo(f"starting the worker, {kind}")
            with serving(lab, _GROUP, topics, {}) as worker:
                ready_s = worker.wait_ready()
                metrics = worker.metrics()
                if kind == "cold":
                    os.kill(worker.process.pid, signal.SIGKILL)
            offsets = int(metrics.get("headwater_restored_records", 0))
            starts[kind] = _Start(ready_s, offsets, metrics.get("headwater_restore_seconds", 0.0))
        _check(lab.home / _GROUP / _GROUP, options, values)
        echo("reading alone, and writing alone")
        ceilings = _Ceilings(asyncio.run(_reading_s(lab, options)), _writing_s(lab.home / "written", options, values))
    return _result(options, starts, ceilings, len(values[0]))


def _states() -> list[bytes]:
    rng = np.random.default_rng(0)
    made: list[bytes] = []
    for _ in range(_STATES):
        each = UserState()
        each.model_version, each.events_count, each.known_count = "bench", 1, 1
        each.hidden = rng.standard_normal(_STATE_FLOATS, dtype=np.float32)
        each.vector = rng.standard_normal(64, dtype=np.float32)
        made.append(state.encode(each))
    return made


def _users(options: RecoveryOptions, values: list[bytes]) -> Generator[tuple[int, bytes, bytes]]:
    """Partition, key and value of every user."""
    for number in range(options.users):
        key = b"user-%d" % number
        yield partition_of(key, options.partitions), key, values[number % len(values)]


async def _fill(lab: Lab, options: RecoveryOptions, values: list[bytes]) -> None:
    topic = changelog_topic(_GROUP)
    async with lab.producer() as producer:
        parts: dict[int, list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]]] = {}
        waiting = 0
        for partition, key, value in _users(options, values):
            parts.setdefault(partition, []).append((key, value, []))
            waiting += 1
            if waiting == _SLICE_USERS:
                await _send(producer, topic, parts)
                waiting = 0
        await _send(producer, topic, parts)


async def _send(producer: Any, topic: str, parts: dict[int, list[Any]]) -> None:
    pending = [
        await producer.send_batch(batch, topic, partition=partition)
        for partition, records in parts.items()
        for batch in batches_of(producer, records)
    ]
    for future in pending:
        await future
    parts.clear()


async def _reading_s(lab: Lab, options: RecoveryOptions) -> float:
    """Seconds to read the changelog as a restore does, without writing anything."""
    consumer: Any = new_changelog_consumer(BrokerSettings(address=lab.address), read_committed=True)
    await consumer.start()
    try:
        partitions = [TopicPartition(changelog_topic(_GROUP), n) for n in range(options.partitions)]
        consumer.assign(partitions)
        for partition in partitions:
            consumer.seek(partition, 0)
        began, records = time.monotonic(), 0
        with packed_records_handed_on():
            while records < options.users:
                fetched = await consumer.getmany(timeout_ms=_POLL_MS)
                records += sum(map(len, fetched.values()))
        return time.monotonic() - began
    finally:
        await consumer.stop()


def _writing_s(directory: Path, options: RecoveryOptions, values: list[bytes]) -> float:
    """Seconds to write as many states to an empty store, in batches like those of a restore."""
    store = StateStore(directory, block_cache_mb=_CACHE_MB, write_buffer_mb=_BUFFER_MB)
    try:
        for partition in range(options.partitions):
            store.open(partition)
        spent_s, users = 0.0, _users(options, values)
        while changes := list(islice(users, _BATCH_USERS)):
            by_partition: dict[int, list[tuple[bytes, bytes]]] = {}
            for partition, key, value in changes:
                by_partition.setdefault(partition, []).append((key, value))
            spent_s -= time.monotonic()
            for partition, part in by_partition.items():
                store.write(partition, part, 0)
            spent_s += time.monotonic()
        return spent_s
    finally:
        store.close_all()


def _check(directory: Path, options: RecoveryOptions, values: list[bytes]) -> None:
    """Some users, drawn anew each time, have the state that the changelog has.

    Raises:
        BenchError: one has not.
    """
    store = StateStore(directory, block_cache_mb=8, write_buffer_mb=8)
    try:
        for partition in range(options.partitions):
            store.open(partition)
        for number in random.sample(range(options.users), min(_CHECKED_USERS, options.users)):
            key = b"user-%d" % number
            if store.get(partition_of(key, options.partitions), key) != values[number % len(values)]:
                raise BenchError(
                    f"the state of user {key.decode()} is not what the changelog has; the restore is wrong"
                )
    finally:
        store.close_all()


def _result(
    options: RecoveryOptions, starts: Mapping[str, _Start], ceilings: _Ceilings, value_bytes: int
) -> dict[str, Any]:
    cold = starts["cold"]
    if cold.restored_records != options.users:
        raise BenchError(f"{cold.restored_records} of {options.users} records were restored")
    return {
        "users": options.users,
        "value_bytes": value_bytes,
        "restore_records_per_s": round(cold.restored_records / cold.restore_s),
        "restore_s": round(cold.restore_s, 2),
        "reading_alone_per_s": round(options.users / ceilings.reading_s),
        "writing_alone_per_s": round(options.users / ceilings.writing_s),
        "cold_ready_s": round(cold.ready_s, 2),
        "warm_ready_s": round(starts["warm"].ready_s, 2),
        "killed_ready_s": round(starts["killed"].ready_s, 2),
        "killed_restored_records": starts["killed"].restored_records,
        "partitions": options.partitions,
        "broker": options.broker,
        "machine": machine(),
        "versions": versions(options.broker),
    }


def show(result: Mapping[str, Any]) -> None:
    """The figures as a table on standard output."""
    console = Console(highlight=False, soft_wrap=True, width=120)
    table = Table("start", "ready after", "", box=None, pad_edge=False)
    rate = f"{result['restore_records_per_s']:,} records/s of {result['value_bytes']} bytes in {result['restore_s']} s"
    table.add_row("empty disk", f"{result['cold_ready_s']} s", rate)
    tail = f"{result['killed_restored_records']:,} records that were not flushed"
    table.add_row("after kill -9", f"{result['killed_ready_s']} s", tail)
    table.add_row("after an orderly end", f"{result['warm_ready_s']} s", "nothing to read")
    console.print(f"{result['users']:,} users on {result['partitions']} partitions")
    console.print(table)
    reading, writing = result["reading_alone_per_s"], result["writing_alone_per_s"]
    console.print(f"reading the changelog alone {reading:,} records/s, writing to the store alone {writing:,}")
    about = result["machine"]
    console.print(f"{result['broker']} broker on the same machine, {about['cores']} cores of {about['cpu']}")

"""A changelog to restore from, stores that note what happens to them, and the fold that says what must come of it."""

# pyright: reportPrivateUsage=false

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from operators.records import Records
from streams.restore import Restored, Restorer
from streams.store import StateStore, StoreError

TOPIC = "changelog"
KEYS = tuple(b"user-%d" % n for n in range(6))


class Record(NamedTuple):
    """One changelog record; None for a value is a tombstone."""

    offset: int
    key: bytes
    value: bytes | None
    headers: tuple[()] = ()


Log = dict[int, list[Record]]


class FakeConsumer:
    """A changelog that is fetched in given steps of offsets; the end of a partition is known after its first fetch.

    After the last step it waits for ever, as a test that stops a restore wants it, or goes on by ``then`` offsets.
    """

    def __init__(
        self,
        log: Log,
        ends: Mapping[int, int],
        steps: Iterable[Mapping[int, int]] = (),
        *,
        firsts: Mapping[int, int] | None = None,
        then: int | None = 1_000,
    ) -> None:
        self._log, self._ends, self._then = log, ends, then
        self._steps = iter(steps)
        self._firsts: Mapping[int, int] = {} if firsts is None else firsts
        self._positions: dict[int, int] = {}
        self._highwaters: dict[int, int] = {}
        self.assigned: list[TopicPartition] = []
        self.fetched = asyncio.Event()
        """A fetch has told where a partition ends."""
        self.waits = asyncio.Event()
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")

    async def stop(self) -> None:
        self.calls.append("stop")

    def assign(self, tps: Sequence[TopicPartition]) -> None:
        self.assigned = list(tps)

    async def beginning_offsets(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: self._firsts.get(tp.partition, 0) for tp in tps}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._positions[tp.partition] = offset

    def highwater(self, tp: TopicPartition) -> int | None:
        return self._highwaters.get(tp.partition)

    async def position(self, tp: TopicPartition) -> int:
        return self._positions[tp.partition]

    async def getmany(self, timeout_ms: int) -> dict[TopicPartition, Records]:
        assert timeout_ms > 0
        await asyncio.sleep(0)
        step = next(self._steps, None)
        if step is None and self._then is None:
            self.waits.set()
            await asyncio.Event().wait()
        fetched: dict[TopicPartition, Records] = {}
        for tp in self.assigned:
            n, since = tp.partition, self._positions[tp.partition]
            reach = (self._then or 0) if step is None else step.get(n, 0)
            if not reach:
                continue
            if since < self._firsts.get(n, 0):
                raise OffsetOutOfRangeError({tp: since})
            self._highwaters[n] = self._ends[n]
            self._positions[n] = max(min(since + reach, self._ends[n]), since)
            records = [record for record in self._log[n] if since <= record.offset < self._positions[n]]
            if records:
                fetched[tp] = Records.of(records)
            self.fetched.set()
        return fetched


class Told:
    """Progress as it was told."""

    def __init__(self) -> None:
        self.moves: list[tuple[int, int]] = []
        self.ended: list[Restored | None] = []

    def move(self, done: int, total: int) -> None:
        self.moves.append((done, total))

    def end(self, restored: Restored | None) -> None:
        self.ended.append(restored)


def fold(records: Iterable[Record]) -> dict[bytes, bytes]:
    """The oracle: what a compacted topic means."""
    folded: dict[bytes, bytes] = {}
    for record in records:
        if record.value is None:
            folded.pop(record.key, None)
        else:
            folded[record.key] = record.value
    return folded


def contents(store: StateStore, partition: int) -> dict[bytes, bytes]:
    values = store.load(partition, KEYS)
    return {key: value for key, value in zip(KEYS, values, strict=True) if value is not None}


def filled(partition: int, records: int, *, since: int = 0) -> list[Record]:
    """Records that go over all keys again and again, every seventh a tombstone."""
    return [
        Record(n, KEYS[n % len(KEYS)], None if n % 7 == 6 else b"%d of %d" % (n, partition))
        for n in range(since, since + records)
    ]


def restore(store: StateStore, consumer: Any, partitions: Sequence[int], told: Told | None = None) -> Restored:
    async def run() -> Restored:
        restorer = Restorer(store, TOPIC, lambda: consumer, told or Told())
        try:
            return await asyncio.wait_for(restorer.run(partitions, None), 30)
        finally:
            restorer.close()

    return asyncio.run(run())


class SlowStore:
    """A store of dicts that notes the order of its calls, and whose writes take a while."""

    directory = Path("state")

    def __init__(self) -> None:
        self.state: dict[int, dict[bytes, bytes]] = {0: {}, 1: {}}
        self.offsets: dict[int, int] = {}
        self.writing = self.writing_most = 0
        self.in_work: set[int] = set()
        self.began = threading.Event()
        self.fails = False
        self._lock = threading.Lock()

    def path(self, partition: int) -> Path:
        return self.directory / f"{partition}"

    def offset(self, partition: int) -> int | None:
        return self.offsets.get(partition)

    def write(self, partition: int, changes: Sequence[tuple[bytes, bytes | None]], offset: int) -> None:
        with self._lock:
            assert partition not in self.in_work, "two writes of a partition at a time"
            self.in_work.add(partition)
            self.writing_most = max(self.writing_most, len(self.in_work))
        self.began.set()
        time.sleep(0.02)
        if self.fails and partition == 1:
            self.in_work.discard(partition)
            raise StoreError("disk full")
        time.sleep(0.02)
        for key, value in changes:
            if value is None:
                self.state[partition].pop(key, None)
            else:
                self.state[partition][key] = value
        self.offsets[partition] = offset
        self.in_work.discard(partition)


def restoring(store: Any, consumer: Any) -> Callable[[Callable[[Restorer], Coroutine[Any, Any, None]]], None]:
    """Runs a coroutine on a restorer, which is closed in the end."""

    def run(use: Callable[[Restorer], Coroutine[Any, Any, None]]) -> None:
        async def used() -> None:
            restorer = Restorer(store, TOPIC, lambda: consumer, Told())
            try:
                await asyncio.wait_for(use(restorer), 30)
            finally:
                restorer.close()

        asyncio.run(used())

    return run

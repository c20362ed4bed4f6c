"""Restore of the state from its changelog: all partitions at once, one WriteBatch per partition and fetch.

The changelog is read by a consumer of its own, outside the consumer group, and only what is committed: a transaction
that is still open is waited for, or, where its owner is gone, ended (``ChunkConsumer.fence_owners``). While one fetch
is written, in a thread per partition, the next one is read. A partition whose files are on disk reads only the tail.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# aiokafka is not typed throughout.

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import OffsetOutOfRangeError
from aiokafka.structs import TopicPartition

from operators import limits
from operators.records import Records
from streams.store import StateStore, StoreError

__all__ = ["OnStalled", "Progress", "Restored", "Restorer"]

_POLL_MS: Final = 200
_STALLED_S: Final = 1.0
"""Without progress for this long, a partition is held by a transaction that nobody ends."""


class Restored(NamedTuple):
    """What a restore did."""

    records: int
    partitions: int
    seconds: float


OnStalled = Callable[[Sequence[int]], Awaitable[None]] | None
"""Is told of partitions that a transaction holds up which nobody seems to end, so that it may be ended."""


class Progress(Protocol):
    """Is told how far a restore has come."""

    def move(self, done: int, total: int) -> None:
        """After every fetch: how many offsets are done, and of how many."""
        ...

    def end(self, restored: Restored | None) -> None:
        """Once; None where it was broken off."""
        ...


class Restorer:
    """Brings open partitions of a ``StateStore`` to the end of their changelog."""

    def __init__(
        self,
        store: StateStore,
        topic: str,
        new_consumer: Callable[[], AIOKafkaConsumer],
        progress: Progress,
        *,
        threads: int = limits.restore_threads_max,
    ) -> None:
        """``new_consumer``: one in no group, that reads what is committed and knows no way to reset an offset."""
        self._store = store
        self._topic = topic
        self._new_consumer = new_consumer
        self._progress = progress
        self._threads = ThreadPoolExecutor(threads, "headwater-restore")
        self._running: asyncio.Task[Restored] | None = None
        self._run_in_work: _Run | None = None

    async def run(self, partitions: Sequence[int], on_stalled: OnStalled) -> Restored:
        """Read each partition from its stored offset to the end that the changelog has now.

        Raises:
            StoreError: the state is ahead of its changelog, or cannot be written.
            KafkaError: the changelog cannot be read.
        """
        self._running = asyncio.create_task(self._run(partitions, on_stalled), name="headwater-restore")
        return await self._running

    async def cancel(self) -> None:
        """End a run that is still going, so that no thread writes any more; what is written stays."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            if self._run_in_work is not None:
                await asyncio.gather(self._run_in_work.writing, return_exceptions=True)

    def close(self) -> None:
        """Give the threads back."""
        self._threads.shutdown(wait=True)

    async def _run(self, partitions: Sequence[int], on_stalled: OnStalled) -> Restored:
        if not partitions:
            return Restored(0, 0, 0.0)
        began = time.monotonic()
        restored: Restored | None = None
        consumer = self._new_consumer()
        try:
            await consumer.start()
            run = self._run_in_work = _Run(self._store, self._topic, consumer, self._progress, self._threads)
            records = await run.to_end(partitions, on_stalled)
            restored = Restored(records, len(partitions), time.monotonic() - began)
            return restored
        finally:
            self._progress.end(restored)
            await consumer.stop()


class _Run:
    """One restore."""

    def __init__(
        self, store: StateStore, topic: str, consumer: Any, progress: Progress, threads: ThreadPoolExecutor
    ) -> None:
        self._store, self._topic, self._consumer = store, topic, consumer
        self._progress, self._threads = progress, threads
        self._starts: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self.writing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.writing.set_result(None)

    async def to_end(self, partitions: Sequence[int], on_stalled: OnStalled) -> int:
        """Returns the number of records that were applied."""
        await self._seek(partitions)
        records, done, moved_at = 0, -1, time.monotonic()
        try:
            while behind := await self._behind():
                fetched = await self._consumer.getmany(timeout_ms=_POLL_MS)
                records += sum(map(len, fetched.values()))
                await self._write(fetched)
                before, done = done, await self._done()
                if done != before:
                    moved_at = time.monotonic()
                elif on_stalled is not None and time.monotonic() - moved_at > _STALLED_S:
                    await on_stalled([tp.partition for tp in behind])
                    moved_at = time.monotonic()
        except OffsetOutOfRangeError as error:
            raise self._ahead(error.args[0]) from None
        finally:
            await asyncio.shield(self.writing)
        return records

    async def _seek(self, partitions: Sequence[int]) -> None:
        tps = [TopicPartition(self._topic, partition) for partition in partitions]
        self._consumer.assign(tps)
        first = await self._consumer.beginning_offsets(tps)
        for tp in tps:
            stored = self._store.offset(tp.partition)
            if stored is not None and stored + 1 < first[tp]:
                raise StoreError(
                    f"the changelog {tp.topic} of partition {tp.partition} begins at {first[tp]}, but the state in"
                    f" {self._store.path(tp.partition)} ends at {stored}: records between were deleted. Delete that"
                    " directory to restore from what the changelog has"
                )
            self._starts[tp] = first[tp] if stored is None else stored + 1
            self._consumer.seek(tp, self._starts[tp])

    async def _behind(self) -> list[TopicPartition]:
        """Partitions that are not at their end; the end is what the first fetch said, whatever came later."""
        behind: list[TopicPartition] = []
        for tp, start in self._starts.items():
            if tp not in self._ends and (end := self._consumer.highwater(tp)) is not None:
                if end < start:
                    raise self._ahead([tp])
                self._ends[tp] = end
            if tp not in self._ends or await self._consumer.position(tp) < self._ends[tp]:
                behind.append(tp)
        return behind

    def _ahead(self, tps: Iterable[TopicPartition]) -> StoreError:
        partitions = ", ".join(str(tp.partition) for tp in sorted(tps))
        return StoreError(
            f"the state of partition {partitions} in {self._store.directory} is ahead of its changelog {self._topic}:"
            " the topics were deleted or made anew, or the directory belongs to another cluster. Move"
            f" {self._store.directory} away and start again: the state is restored from the changelog, or the start is"
            " refused where that does not have it"
        )

    async def _done(self) -> int:
        done = total = 0
        for tp, end in self._ends.items():
            total += end - self._starts[tp]
            done += min(await self._consumer.position(tp), end) - self._starts[tp]
        self._progress.move(done, total)
        return done

    async def _write(self, fetched: Mapping[TopicPartition, Records]) -> None:
        """Wait for the write before, then begin this one."""
        await asyncio.shield(self.writing)
        calls = [(self._apply, tp.partition, part) for tp, part in fetched.items()]
        self.writing = asyncio.ensure_future(self._in_threads(calls))

    async def _in_threads(self, calls: Iterable[tuple[Any, ...]]) -> None:
        """Return when every call is over, also after one has failed."""
        loop = asyncio.get_running_loop()
        started = [loop.run_in_executor(self._threads, *call) for call in calls]
        for result in await asyncio.gather(*started, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _apply(self, partition: int, records: Records) -> None:
        """In a thread; the next call for a partition comes when this one is over."""
        self._store.write(partition, records.changes(), records.last_offset)

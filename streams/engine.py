"""The engine: gathers chunks of all partitions, runs them through the core as one batch, and settles them.

The states of one batch are updated in a thread while a second one makes the lists of the batch before, and those
before that are delivered and stored: a broker that pauses for a moment does not hold up the core.
An error anywhere ends the worker; nothing of the batch is acknowledged.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.batches import Chunk, UserKey, decode_chunks
from operators.effects import NO_EFFECTS, Effects
from operators.interest import Encoder
from operators.lists import Updated, causes_max, make_lists
from operators.privacy import Pseudonyms
from operators.process import update_states
from operators.ranking import Policy
from streams.catalog import Catalog
from streams.checkpoint import Checkpoint, Settlement
from streams.clock import now_ms
from streams.dead_letters import withheld
from streams.intake import Intake, IntakeQueue, Source
from streams.metrics import Metrics
from streams.states import States

__all__ = ["DrainError", "Engine"]


_ALIGN_POLL_S: Final = 0.01


class _Begun(NamedTuple):
    snapshots: list[tuple[int, bytes, bytes]]
    begun_ms: int
    appended_ms: NDArray[np.int64]
    clock: "_Stages"


class _Work(NamedTuple):
    effects: Effects
    begun: _Begun


_Computed = tuple[list[Intake], "asyncio.Future[Future[_Work]]"]
"""Chunks, and the lists that are made of them once the states are updated."""


class DrainError(RuntimeError):
    """What is in work cannot be finished in time; the message says what to look at."""

    def __init__(self) -> None:
        super().__init__(
            f"the batches in work were not settled within {limits.drain_max_s:g} s, and the partitions had to be given"
            " up: the broker or the disk under worker.data_dir hardly answers. See `headwater doctor` and"
            " headwater_stage_seconds in /metrics, then start this worker again; nothing that was not settled was"
            " acknowledged"
        )


class Engine:
    """Batches for the core. All methods run on the event loop; the core runs in the engine's own two threads."""

    def __init__(
        self,
        states: States,
        encoder: Encoder,
        catalog: Catalog,
        checkpoint: Checkpoint,
        metrics: Metrics,
        policy: Policy,
        topics: Sequence[str],
        *,
        source: Source,
        accepts: Callable[[Intake], bool],
        batch_events_max: int,
        yield_after_s: float = 0.0,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        self._states = states
        self._encoder = encoder
        self._catalog = catalog
        self._checkpoint = checkpoint
        self._metrics = metrics
        self._policy = policy
        self._topics = topics
        self._accepts = accepts
        self._pseudonyms = pseudonyms
        self._batch_events_max = min(batch_events_max, causes_max(topics))  # all may be of one user
        self._batch_events_now = min(limits.chunk_records_max, self._batch_events_max)
        """Fewer where a large catalogue makes lists slow: a rebalance must not wait for a batch for ever."""
        self._yield_after_ms = 1000 * yield_after_s if yield_after_s else None
        self._core = ThreadPoolExecutor(1, "headwater-core")
        self._lists = ThreadPoolExecutor(1, "headwater-lists")
        self._queue = IntakeQueue(source)
        self._changed = asyncio.Condition()
        self._in_work = 0
        self._events_in_work = 0
        self._erased: deque[tuple[UserKey, int]] = deque()
        """Users whose erasure is settled, on their way to the core's thread, and the fences behind the requests."""
        self._computing = 0
        """Batches taken whose settlement has not begun."""
        self._updating = 0
        """Of these, the ones whose states are not updated."""
        self._generation = 0
        """Of the batch settled last."""
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set to the exception that ended the engine."""
        self._task: asyncio.Task[None] | None = None

    @property
    def pending_events(self) -> int:
        """Events that were received and are not settled yet."""
        return len(self._queue) + self._events_in_work

    async def spare(self) -> None:
        """Return when nothing waits and no states are updated, after ``limits.fetch_pace_ms`` at the latest.

        The lists are then still to be made: what is fetched meanwhile is there when the next batch can begin.
        """
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(self._is_spare), limits.fetch_pace_ms / 1000)

    def _is_spare(self) -> bool:
        return not self._updating and not len(self._queue)

    def start(self) -> None:
        """Begin to take batches."""
        self._task = asyncio.create_task(self._run(), name="headwater-engine")

    async def stop(self) -> None:
        """Stop taking batches; what is in work is dropped, unacknowledged, unless ``drain`` came first."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._core.shutdown(wait=True, cancel_futures=True)
        self._lists.shutdown(wait=True, cancel_futures=True)

    async def submit(self, intakes: Iterable[Intake]) -> None:
        """Queue chunks that one batch may begin with; a source partition with too much in the queue is paused."""
        async with self._changed:
            for intake in intakes:
                self._queue.put(intake)
            self._changed.notify_all()

    async def drain(self) -> None:
        """Drop what is queued, wait for what is in work, save popularity, and forget every cached state.

        What is dropped was not acknowledged: its partition's next owner reads it again.

        Raises:
            DrainError: the work took longer than ``limits.drain_max_s``.
        """
        async with self._changed:
            self._queue.clear()
            try:
                await asyncio.wait_for(self._changed.wait_for(self._idle), limits.drain_max_s)
            except TimeoutError:
                raise DrainError from None
            if not self.failed.done():
                snapshots = self._states.due_snapshots(events=1)
                await self._checkpoint.settle(Settlement(NO_EFFECTS, snapshots, {}, self._generation))
            self._states.forget()

    def _idle(self) -> bool:
        return self._in_work == 0 or self.failed.done()

    async def _run(self) -> None:
        computed: asyncio.Queue[_Computed] = asyncio.Queue()
        feeder = asyncio.create_task(self._feed(computed), name="headwater-feeder")
        settling: deque[asyncio.Task[None]] = deque()
        try:
            while not self.failed.done():
                intakes, result = await computed.get()
                lists = await result
                self._updating -= 1
                await self._notify()
                work = await asyncio.wrap_future(lists)
                self._note_pace(work.effects.counts.records, work.begun.clock.lists_s)
                if len(settling) == limits.settling_batches_max:
                    await settling.popleft()
                before = settling[-1] if settling else None
                settling.append(asyncio.create_task(self._settle(intakes, work, before), name="headwater-settlement"))
                self._computing -= 1
                await self._notify()
        except Exception as error:
            await self._fail(error)
        finally:
            feeder.cancel()
            for settlement in settling:
                settlement.cancel()
            await asyncio.gather(*settling, return_exceptions=True)

    async def _feed(self, computed: "asyncio.Queue[_Computed]") -> None:
        """Have the next batch ready for the core's thread when it is through with the one before."""
        loop = asyncio.get_running_loop()
        try:
            while not self.failed.done():
                intakes = await self._gather()
                chunks = [intake.chunk for intake in intakes]
                work = loop.run_in_executor(self._core, self._update, chunks)
                computed.put_nowait((intakes, work))
        except Exception as error:
            await self._fail(error)

    async def _fail(self, error: Exception) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _gather(self) -> list[Intake]:
        """Wait for chunks, then take all that may go, up to a batch; nothing once the engine has failed."""
        async with self._changed:
            while True:
                await self._changed.wait_for(lambda: self._may_gather() or self.failed.done())
                taken = self._queue.take(self._batch_events_now, self._topics)
                self._metrics.totals["unaligned_total"] = self._queue.unaligned
                intakes = [intake for intake in taken if self._accepts(intake)]
                if intakes or self.failed.done():
                    self._in_work += 1
                    self._events_in_work += _count_events(intakes)
                    self._computing += 1
                    self._updating += 1
                    return intakes
                if not taken:
                    await self._wait_for_chunk()

    def _may_gather(self) -> bool:
        """A second batch is taken only when it is worth its while: what waits joins fewer lists in one batch."""
        if self._computing:
            enough = min(self._batch_events_now // 2, limits.partition_queue_events_max)  # one partition may be all
            return self._computing < limits.computed_batches_max and len(self._queue) >= max(enough, 1)
        return bool(self._queue)

    def _note_pace(self, events: int, lists_s: float) -> None:
        """Batches shrink at once to what ``limits.batch_lists_s_max`` allows, and double while that leaves room."""
        if lists_s > limits.batch_lists_s_max:
            self._batch_events_now = max(1, int(events * limits.batch_lists_s_max / lists_s))
        elif lists_s <= limits.batch_lists_s_max / 2:
            self._batch_events_now = min(2 * self._batch_events_now, self._batch_events_max)

    async def _wait_for_chunk(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), _ALIGN_POLL_S)

    def _update(self, chunks: Sequence[Chunk]) -> Future[_Work]:
        """Runs in the core's thread; what it gives is made in that of the lists, batch after batch."""
        clock, begun_ms = _Stages(), now_ms()
        batch = decode_chunks(chunks, begun_ms, self._pseudonyms)
        appended_ms = np.concatenate([chunk.records.timestamps_ms for chunk in chunks])
        clock.mark("decode")
        while self._erased:
            self._states.drop_erased(*self._erased.popleft())
        touched = batch.touched if batch.erasures else batch.users
        states = self._states.load(touched)
        rejected_in = {letter.partition for letter in batch.dead_letters}
        partitions = {user.partition for user in touched} | rejected_in
        popularity, covisitation = self._states.popularity(partitions), self._states.covisitation(partitions)
        clock.mark("load")
        updated = update_states(
            batch,
            states,
            popularity,
            self._encoder,
            topics=self._topics,
            now_ms=begun_ms,
            covisitation=covisitation,
            drops_seen=self._policy.seen_items == "drop",
            mark=clock.mark,
        )
        snapshots = self._states.due_snapshots(limits.popularity_checkpoint_events)
        clock.mark("states")
        return self._lists.submit(self._make_lists, updated, _Begun(snapshots, begun_ms, appended_ms, clock))

    def _make_lists(self, updated: Updated, begun: _Begun) -> _Work:
        """Runs in the thread of the lists, the only one that knows the rules of the catalogue."""
        begun.clock.mark("wait")
        self._catalog.apply(self._encoder)
        effects = make_lists(
            updated,
            self._encoder,
            self._policy,
            topics=self._topics,
            withdrawn=self._catalog.withdrawn,
            now_ms=begun.begun_ms,
            categories=self._catalog.categories,
            yields=self._yield_after_ms is not None and _waited_ms(begun) > self._yield_after_ms,
            mark=begun.clock.mark,
        )
        if self._pseudonyms is not None:
            effects = effects._replace(dead_letters=[withheld(letter) for letter in effects.dead_letters])
        return _Work(effects, begun)

    async def _settle(self, intakes: Sequence[Intake], work: _Work, before: "asyncio.Task[None] | None") -> None:
        started = time.perf_counter()
        effects, begun = work
        offsets: dict[Any, int] = {}
        for intake in intakes:
            offsets[intake.tp] = max(intake.chunk.records.last_offset + 1, offsets.get(intake.tp, 0))
        self._generation = intakes[0].generation
        try:
            await self._checkpoint.settle(Settlement(effects, begun.snapshots, offsets, self._generation), before)
        except Exception as error:
            await self._fail(error)
            raise
        self._erased.extend((erase.user, erase.next_offset) for erase in effects.erasures)
        seconds = {**begun.clock.seconds, "settle": time.perf_counter() - started}
        self._metrics.batch(effects.counts, len(effects.lists), seconds)
        self._metrics.ages(begun.appended_ms, begun.begun_ms, now_ms())
        counts = effects.counts
        self._metrics.gauges["degraded"] = counts.degraded_lists > counts.yielded_lists
        async with self._changed:
            self._in_work -= 1
            self._events_in_work -= _count_events(intakes)
            self._changed.notify_all()


def _waited_ms(begun: _Begun) -> float:
    """The median over the records: a few old ones say nothing of the worker."""
    return float(begun.begun_ms - np.median(begun.appended_ms)) if len(begun.appended_ms) else 0.0


def _count_events(intakes: Sequence[Intake]) -> int:
    return sum(len(intake.chunk.records) for intake in intakes)


class _Stages:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    @property
    def lists_s(self) -> float:
        return self.seconds.get("rank", 0.0) + self.seconds.get("lists", 0.0)

    def mark(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now

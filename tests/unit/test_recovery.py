"""Faust's recovery, replaced: what is asked for in which order, and what an error or another rebalance does."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# Faust keeps its recovery to itself, and is not typed throughout.

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import IllegalStateError
from faust.types import TP

from streams.recovery import ChunkRecovery, ChunkTableManager, RecoveryError
from streams.store import StoreError
from streams.transactions import FencedError

GENERATION = 4
SEEK_TIMEOUT_S = 0.2


class FakeRestorer:
    """Notes what it was asked for; ``on_run`` is what happens while it runs."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls
        self.on_run: Callable[[], Coroutine[Any, Any, None]] | None = None

    async def run(self, partitions: Sequence[int], on_stalled: Any) -> None:
        self.calls.append(("restore", list(partitions), on_stalled))
        if self.on_run is not None:
            await self.on_run()


class FakeConsumer:
    """The part of the group's consumer that a recovery asks."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    async def await_stable_offsets(self) -> None:
        self.calls.append("stable")

    async def fence_owners(self, partitions: Sequence[int]) -> None:
        self.calls.append(("fence", partitions))

    async def claim(self, generation: int) -> None:
        self.calls.append(("claim", generation))


class Recovery(ChunkRecovery):
    """With a fake app, and the end of a recovery noted."""

    def __init__(self, *, exactly_once: bool = False) -> None:
        self.calls: list[Any] = []
        self.restorer, self.consumer = FakeRestorer(self.calls), FakeConsumer(self.calls)
        conf = SimpleNamespace(stream_recovery_delay=0.0, broker_request_timeout=SEEK_TIMEOUT_S)
        app: Any = SimpleNamespace(
            conf=conf, restorer=self.restorer, chunk_consumer=self.consumer, exactly_once=exactly_once
        )
        super().__init__(app, tables=SimpleNamespace())  # type: ignore[arg-type]
        self.active_tps.update({TP("changelog", 3), TP("changelog", 1)})
        self._generation_id = GENERATION
        self.completed_generations: list[int] = []
        self.settled = asyncio.Event()
        self.seeks_at_once = True

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        self.calls.append("complete")
        if not self.seeks_at_once:  # as Faust does it
            await self._wait(asyncio.Event().wait(), timeout=self.app.conf.broker_request_timeout)
        self.completed_generations.append(generation_id)
        self.settled.set()

    @property
    def body(self) -> Callable[[], Coroutine[Any, Any, None]]:
        """The task of it that Faust would start."""
        task: Any = ChunkRecovery.__dict__["_restart_recovery"]
        return lambda: task.fun(self)


def recovering(use: Callable[["Recovery", "asyncio.Task[None]"], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Runs ``use`` beside the recovery's task."""

    async def run() -> None:
        recovery = Recovery(**options)
        task: asyncio.Task[None] = asyncio.ensure_future(recovery.body())
        try:
            await asyncio.wait_for(use(recovery, task), 20)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_every_assigned_partition_is_restored_once_and_then_events_flow() -> None:
    async def use(recovery: Recovery, task: "asyncio.Task[None]") -> None:
        await asyncio.sleep(0.05)
        assert recovery.calls == []
        recovery.signal_recovery_start.set()
        await recovery.settled.wait()
        assert recovery.calls == [("restore", [1, 3], None), "complete"]
        assert recovery.completed_generations == [GENERATION]
        await asyncio.sleep(0.05)
        assert len(recovery.calls) == 2
        assert not task.done()

    recovering(use)


def test_exactly_once_knows_the_commits_before_the_end_and_claims_after_it() -> None:
    async def use(recovery: Recovery, task: "asyncio.Task[None]") -> None:
        recovery.signal_recovery_start.set()
        await recovery.settled.wait()
        assert recovery.calls == [
            "stable",
            ("restore", [1, 3], recovery.consumer.fence_owners),
            ("claim", GENERATION),
            "complete",
        ]
        assert not task.done()

    recovering(use, exactly_once=True)


@pytest.mark.parametrize("error", [FencedError(), IllegalStateError("no position"), asyncio.CancelledError()])
def test_a_generation_that_is_over_is_not_completed_and_the_next_one_is(error: BaseException) -> None:
    async def use(recovery: Recovery, task: "asyncio.Task[None]") -> None:
        failed = asyncio.Event()

        async def fails() -> None:
            failed.set()
            raise error

        recovery.restorer.on_run = fails
        recovery.signal_recovery_start.set()
        await failed.wait()
        await asyncio.sleep(0.05)
        assert not recovery.completed_generations
        assert not task.done()
        recovery.restorer.on_run = None
        recovery._generation_id = GENERATION + 1
        recovery.signal_recovery_start.set()
        await recovery.settled.wait()
        assert recovery.completed_generations == [GENERATION + 1]

    recovering(use)


def test_a_rebalance_in_the_middle_begins_again_with_what_is_assigned_then() -> None:
    async def use(recovery: Recovery, task: "asyncio.Task[None]") -> None:
        began = asyncio.Event()

        async def hangs() -> None:
            began.set()
            await asyncio.Event().wait()

        recovery.restorer.on_run = hangs
        recovery.signal_recovery_start.set()
        await began.wait()
        recovery.restorer.on_run = None
        recovery.active_tps.discard(TP("changelog", 3))
        recovery._generation_id = GENERATION + 1
        recovery.signal_recovery_start.set()
        await recovery.settled.wait()
        assert recovery.calls == [("restore", [1, 3], None), ("restore", [1], None), "complete"]
        assert recovery.completed_generations == [GENERATION + 1]
        assert not task.done()

    recovering(use)


def test_a_state_that_cannot_be_restored_ends_the_service() -> None:
    # Faust's own goes on after "Error in recovery", with a state that is not whole.
    async def use(recovery: Recovery, task: "asyncio.Task[None]") -> None:
        async def fails() -> None:
            raise StoreError("ahead of its changelog")

        recovery.restorer.on_run = fails
        recovery.signal_recovery_start.set()
        with pytest.raises(StoreError):
            await asyncio.wait_for(task, 10)
        assert not recovery.completed_generations

    recovering(use)


def test_a_seek_that_takes_too_long_ends_the_service_with_what_to_look_at() -> None:
    # mode reports it as a stop, of which nobody would hear: the worker would be alive and process nothing.
    async def use(recovery: Recovery, task: "asyncio.Task[None]") -> None:
        recovery.seeks_at_once = False
        recovery.signal_recovery_start.set()
        with pytest.raises(RecoveryError, match=r"committed offsets within 0\.2 s.*headwater doctor"):
            await asyncio.wait_for(task, 10)
        assert not recovery.completed_generations

    recovering(use)


def test_a_stop_while_it_seeks_ends_the_task_without_a_word() -> None:
    async def use(recovery: Recovery, task: "asyncio.Task[None]") -> None:
        recovery.seeks_at_once = False
        recovery.signal_recovery_start.set()
        await asyncio.sleep(SEEK_TIMEOUT_S / 4)
        assert recovery.calls[-1] == "complete"
        recovery._stopped.set()
        await asyncio.wait_for(task, 10)

    recovering(use)


def test_a_stop_ends_the_task() -> None:
    async def use(recovery: Recovery, task: "asyncio.Task[None]") -> None:
        recovery._stopped.set()
        await asyncio.wait_for(task, 10)
        assert recovery.calls == []

    recovering(use)


def test_the_table_manager_has_this_recovery_once() -> None:
    conf = SimpleNamespace(stream_recovery_delay=0.0)
    manager: Any = ChunkTableManager.__new__(ChunkTableManager)
    manager._recovery, manager.beacon, manager.loop = None, None, None
    manager.app = SimpleNamespace(conf=conf)
    assert isinstance(manager.recovery, ChunkRecovery)
    assert manager.recovery is manager.recovery

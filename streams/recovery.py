"""Faust's table recovery, replaced: what is read, and when it is over, is ours (faust-streaming 0.15.3).

Faust reads the changelog through the group's consumer, record by record on the event loop, and takes a restore for
complete when it has seen the record before the high watermark (tables/recovery.py, ``need_recovery``). After a
transaction that record does not exist: a marker has the offset. It also goes on after an error in the restore
(``Error in recovery``) and when another rebalance interrupts it. What is kept of it: the signal that a rebalance
sets, and what follows a restore (``on_recovery_completed``).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Faust is not typed throughout.

import asyncio
import logging
from typing import Any

from aiokafka.errors import IllegalStateError
from faust.tables.manager import TableManager
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped
from mode import Service

from streams.transactions import FencedError

__all__ = ["ChunkRecovery", "ChunkTableManager", "RecoveryError"]

log = logging.getLogger(__name__)


class RecoveryError(RuntimeError):
    """Events cannot begin to flow; the message says what to look at."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"the broker did not tell the group's committed offsets within {timeout_s:g} s, so that no event could be"
            " processed. See `headwater doctor` and the log of the group's coordinator, then start this worker again"
        )


class ChunkRecovery(Recovery):
    """Restores by the app's ``Restorer``, once for every assignment."""

    @Service.task
    async def _restart_recovery(self) -> None:
        while not await self.wait_for_stopped(self.signal_recovery_start):  # type: ignore[arg-type]  # an Event waits
            self.signal_recovery_start.clear()
            generation = self._generation_id
            try:
                self._set_recovery_started()
                await self._wait(self._restore(generation))
                await self._wait(self.on_recovery_completed(generation))
            except (RebalanceAgain, IllegalStateError, FencedError):
                continue  # the group goes on to another generation, and the signal is set again
            except asyncio.CancelledError:
                # A rebalance cancels the restore (``UserStore.on_rebalance``) before it sets the signal. To end here
                # would leave the worker alive, a member, and without a restore for ever.
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
            except ServiceStopped:
                if not self.should_stop:  # mode's word for a wait that took too long, too; one has a bound, the seek's
                    raise RecoveryError(self.app.conf.broker_request_timeout) from None
                return

    async def _restore(self, generation: int) -> None:
        app: Any = self.app
        partitions = sorted(tp.partition for tp in self.active_tps)
        consumer = app.chunk_consumer
        if not app.exactly_once:
            await app.restorer.run(partitions, None)
            return
        # In this order: what can still be committed is known before the end of the changelog is, and the owner
        # before stays known until nothing of it is open any more.
        await consumer.await_stable_offsets()
        await app.restorer.run(partitions, consumer.fence_owners)
        await consumer.claim(generation)

    @Service.task
    async def _slurp_changelogs(self) -> None:
        """Nothing comes through the group's consumer."""

    @Service.task
    async def _publish_stats(self) -> None:
        """The restorer has figures of its own."""


class ChunkTableManager(TableManager):
    """Faust's manager with the recovery above."""

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = ChunkRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

"""The aiokafka consumer of a worker, on the worker's own event loop (faust-streaming 0.15.3, aiokafka 0.14).

- Faust runs it in a thread with a loop of its own, so that agents which hold up the main one do not hold up heartbeats
  (transport/consumer.py, ``ConsumerThread``). Here the work is in threads and the loop is free; each fetch through two
  queues and two loops under one interpreter lock was a good part of what a small batch takes.
- Fetches are incremental, and sent when there is time for what they bring (``streams.fetching``).
- Records are handed on in one piece (``streams.records``).
- Changelogs are not read here (``streams.recovery``).
- The longest fetch wait is a setting (drivers/aiokafka.py hard-codes ``fetch_max_wait_ms=1500``).
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportIncompatibleVariableOverride=false
# The point of this file is to change what Faust and aiokafka keep to themselves, and neither is typed throughout.

from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError
from aiokafka.structs import TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode import Service
from mode.utils.futures import maybe_async

from streams.fetching import hurry_partial_fetches, pace_fetches, records_behind, use_fetch_sessions
from streams.protocol import GroupMember, GroupOffset, commit_as_member, offsets_of_group
from streams.transactions import FencedError

__all__ = ["LoopConsumer"]


class LoopConsumer(driver.AIOKafkaConsumerThread):
    """Owns the aiokafka consumer. Faust calls it a thread; this one runs on the event loop that it is made on."""

    wait_for_shutdown = False
    fetch_wait_ms = 100
    app: Any
    member = GroupMember("", -1, "")
    """Who this worker is to its group since the last assignment."""

    # What a service does; Faust's class does it in a thread.
    start = Service.start
    maybe_start = Service.maybe_start
    set_shutdown = Service.set_shutdown
    _stopped_set = Service._stopped_set
    _stop_children = Service._default_stop_children
    _stop_futures = Service._default_stop_futures
    _stop_exit_stacks = Service._default_stop_exit_stacks

    async def crash(self, exc: BaseException) -> None:
        await Service.crash(self, exc)

    async def stop(self) -> None:
        if self._started.is_set():
            await Service.stop(self)

    async def on_stop(self) -> None:
        await self.on_thread_stop()

    async def call_thread(self, fun: Any, *args: Any, **kwargs: Any) -> Any:
        return await maybe_async(fun(*args, **kwargs))

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = self.fetch_wait_ms
        if self.app.exactly_once:
            consumer._isolation_level = "read_committed"
        return consumer

    async def _fetch_records(self, consumer: AIOKafkaConsumer, *args: Any, **kwargs: Any) -> Any:
        # A group that may no longer be read is told to whoever polls, and Faust polls the fetcher only.
        if consumer._coordinator is not None:
            consumer._coordinator.check_errors()
        fetcher: Any = consumer._fetcher
        fetching = fetcher.error_future
        if fetching.done() and not fetching.cancelled():
            fetching.result()  # an error nobody expected has ended it, and no record would ever come again
        return await super()._fetch_records(consumer, *args, **kwargs)

    async def leave_group(self) -> None:
        """Tell the group at once that this member goes; Faust does only at the end of an orderly stop."""
        coordinator: Any = None if self._consumer is None else self._consumer._coordinator
        if coordinator is not None:
            await self.call_thread(coordinator._maybe_leave_group)

    async def on_start(self) -> None:
        await super().on_start()
        fetcher = self._ensure_consumer()._fetcher
        use_fetch_sessions(fetcher)
        hurry_partial_fetches(fetcher, lambda: self.consumer.flow_active)
        pace_fetches(fetcher, self.app.chunk_consumer.spare)
        self.app.lease.watch(self._ensure_consumer()._coordinator)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        consumer = self._ensure_consumer()
        coordinator: Any = consumer._coordinator
        self.member = GroupMember(coordinator.group_id, generation_id, coordinator.member_id)
        # Faust leaves them to aiokafka's prefetch, which would read back what the worker has written itself.
        consumer.pause(*(TopicPartition(*tp) for tp in assigned if tp.topic in self.app.tables.changelog_topics))
        await super().on_partitions_assigned(assigned, generation_id)

    def look_again(self) -> None:
        """Let whoever waits for records look for them as if some had come."""
        fetcher: Any = self._ensure_consumer()._fetcher
        for waiter in list(fetcher._fetch_waiters):
            fetcher._notify(waiter)

    def behind(self, tp: TP) -> float:
        """Records that the last fetch response told of and that were not handed out yet; inf where none has told."""
        subscription: Any = self._ensure_consumer()._subscription.subscription
        assignment = None if subscription is None else subscription.assignment
        state = None if assignment is None else assignment.state_value(TopicPartition(*tp))
        return 0 if state is None else records_behind(state)

    async def offsets_of_group(self, partitions: Sequence[TP], *, stable: bool) -> Mapping[TP, GroupOffset]:
        """What the group has committed; see ``streams.protocol``."""
        coordinator = self._ensure_consumer()._coordinator
        wanted = [TopicPartition(*tp) for tp in partitions]
        return await self.call_thread(offsets_of_group, coordinator, wanted, stable)

    async def commit_as(self, member: GroupMember, offsets: Mapping[Any, int], metadata: str) -> None:
        """Commit outside any transaction; see ``streams.protocol``.

        Raises:
            FencedError: ``member`` is none of the group's any more.
        """
        coordinator = self._ensure_consumer()._coordinator
        try:
            await self.call_thread(commit_as_member, coordinator, member, offsets, metadata)
        except (IllegalGenerationError, UnknownMemberIdError, RebalanceInProgressError):
            raise FencedError from None

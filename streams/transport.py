"""Faust's Kafka transport, changed so that no event is lost and a fetched list of records travels as one event.

Every change to Faust's consumer lives here; each names what it replaces (faust-streaming 0.15.3, aiokafka 0.14).

- One Faust message is a *chunk*: consecutive records of one partition. Faust's path of four asyncio tasks
  and a dozen calls is then paid per chunk (transport/consumer.py, ``getmany`` and ``_drain_messages``).
- Only ``settle`` moves the offset that is committed. Faust acknowledges a message whose stream was skipped
  during a rebalance, or whose agent raised (streams.py, ``_py_aiter``: ``do_ack or value is skipped_value``),
  and then commits past an event that nobody processed.
- A partition without a committed offset is read from its beginning after a rebalance. Faust leaves it where
  the fetcher stood (aiokafka ``seek_to_committed`` seeks only where there is a commit), behind whatever a
  cleared queue held.
- Changelogs are not read here (``streams.recovery``).
- Nothing is fetched across a seek, and no event before the restore is over. Faust's fetch goes on during a
  rebalance with a set of partitions that changes under it, and its last ``flow_control.resume`` empties every
  queue: what was fetched after the seek and lost there would not be read again.
- Records are handed on as aiokafka's parser made them (aiokafka consumer/fetcher.py copies each into a dataclass
  of eleven fields, at a tenth of an event's whole cost).
- Nobody looks for livelocks. Faust's detector logs, from bookkeeping that ``settle`` replaces, and ends the worker
  where a partition has no position yet (drivers/aiokafka.py, ``verify_event_path``): after any rebalance.
- The longest fetch wait is a setting (drivers/aiokafka.py hard-codes ``fetch_max_wait_ms=1500``).
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportIncompatibleVariableOverride=false
# The point of this file is to change what Faust and aiokafka keep to themselves, and neither is typed throughout.

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError
from aiokafka.structs import TopicPartition
from faust.serializers.schemas import Schema
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage, Message

from operators import limits
from streams.lease import LeasedProducer
from streams.protocol import GroupMember, GroupOffset, commit_as_member, offsets_of_group
from streams.transactions import FencedError, TransactionalProducer

__all__ = [
    "BatchProducer",
    "ChunkConsumer",
    "ChunkSchema",
    "ChunkTransport",
    "Drain",
    "hand_on_parsed_records",
    "parsed_records_handed_on",
]

log = logging.getLogger(__name__)

_UNSTABLE_S = 1.0
"""An owner that lives ends its transaction sooner."""
_UNSTABLE_POLL_S = 0.05
_FETCH_TIMEOUT_S = 0.25
"""Longest wait of one fetch: a rebalance waits for it before it seeks."""
_IDLE_POLL_S = 0.05


class Drain(Protocol):
    """Whoever has chunks in work."""

    async def drain(self) -> None:
        """Return when no chunk is in work; chunks that are not yet in work may be dropped."""
        ...


class ChunkSchema(Schema):  # type: ignore[type-arg]  # Faust's generic parameters have no defaults
    """Hands keys and values on as they are: a chunk is decoded by the core."""

    def loads_key(self, app: Any, message: Message, **_: Any) -> Any:
        return message.key

    def loads_value(self, app: Any, message: Message, **_: Any) -> Any:
        return message.value


def hand_on_parsed_records() -> None:
    """Let every aiokafka consumer of this process skip the copy; the parser's record has what ``Record`` asks for."""
    PartitionRecords._consumer_record = _as_parsed


@contextmanager
def parsed_records_handed_on() -> Generator[None]:
    """The same, for as long as the block runs: in a process with consumers that others have made."""
    copying = PartitionRecords._consumer_record
    hand_on_parsed_records()
    try:
        yield
    finally:
        PartitionRecords._consumer_record = copying


def _as_parsed(self: PartitionRecords, tp: TopicPartition, record: Any) -> Any:
    return record


class ChunkConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread that owns the aiokafka consumer."""

    fetch_wait_ms = 100
    app: Any
    member = GroupMember("", -1, "")
    """Who this worker is to its group since the last assignment."""
    fetched: dict[TP, int]
    """Last offset that was handed to the event loop, by source partition."""

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
        records = await super()._fetch_records(consumer, *args, **kwargs)
        # Here, where the position has just moved: on their way to the event loop they would be known to nobody.
        self.fetched |= {TP(*tp): of_partition[-1].offset for tp, of_partition in records.items() if of_partition}
        return records

    async def leave_group(self) -> None:
        """Tell the group at once that this member goes; Faust does only at the end of an orderly stop."""
        coordinator: Any = None if self._consumer is None else self._consumer._coordinator
        if coordinator is not None:
            await self.call_thread(coordinator._maybe_leave_group)

    async def on_start(self) -> None:
        await super().on_start()
        self.app.lease.watch(self._ensure_consumer()._coordinator)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        consumer = self._ensure_consumer()
        coordinator: Any = consumer._coordinator
        self.member = GroupMember(coordinator.group_id, generation_id, coordinator.member_id)
        # Faust leaves them to aiokafka's prefetch, which would read back what the worker has written itself.
        consumer.pause(*(TopicPartition(*tp) for tp in assigned if tp.topic in self.app.tables.changelog_topics))
        await super().on_partitions_assigned(assigned, generation_id)

    def is_behind(self, tp: TP) -> bool:
        """Whether the last fetch response told of records that were not handed out yet."""
        subscription: Any = self._ensure_consumer()._subscription.subscription
        assignment = None if subscription is None else subscription.assignment
        state = None if assignment is None else assignment.state_value(TopicPartition(*tp))
        if state is None:
            return False
        # Without a fetch response nothing is known, so there may be more.
        return state.highwater is None or not state.has_valid_position or state.highwater > state.position

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


class ChunkConsumer(driver.Consumer):
    """Faust's consumer with chunks for messages and settlement for acknowledgement."""

    app: Any
    _thread: ChunkConsumerThread

    chunk_records_max = limits.chunk_records_max

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settled: dict[TP, int] = {}
        self._fetched: dict[TP, int] = self._thread.fetched
        self._drain: Drain | None = None
        self.claims: Mapping[TP, int] = {}
        """What ``claim`` committed last."""
        self.on_committed: Callable[[set[int]], None] = _nothing
        """Is told of the partitions of which events were committed, before any is fetched; may refuse them."""
        self._fetching = asyncio.Lock()
        """Held from a fetch until its records are handed on or dropped, and during a seek."""
        self._revocations = 0
        self._sought: tuple[int, int] | None = None
        """Generation and revocations at the last seek to the committed offsets."""

    def _new_consumer_thread(self) -> ChunkConsumerThread:
        thread = ChunkConsumerThread(self, loop=self.loop, beacon=self.beacon)
        thread.fetch_wait_ms = self.transport.fetch_wait_ms  # type: ignore[attr-defined]
        thread.fetched = {}
        return thread

    def on_revoke_drain(self, drain: Drain) -> None:
        """Ask ``drain`` before partitions go and before the consumer stops."""
        self._drain = drain

    async def leave_group(self) -> None:
        """Give the partitions back without finishing anything: nobody has to wait for the session to run out."""
        await self._thread.leave_group()

    # -- records in: Consumer.getmany yields one message per record
    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]  # an Event has what wait() needs
        async with self._fetching:
            generation = self.app.consumer_generation_id
            wanted = self._fetchable()
            if wanted and not self.should_stop:
                records = await self._getmany(wanted, min(timeout, _FETCH_TIMEOUT_S))
                # Records that are dropped here were fetched before the seek that reads them again.
                for tp, slice_ in _round_robin(records, self.chunk_records_max):
                    if not self.flow_active or self.app.consumer_generation_id != generation:
                        return
                    yield tp, self._chunk_message(tp, slice_, generation)
        if not wanted:
            await asyncio.sleep(_IDLE_POLL_S)

    def _fetchable(self) -> set[TP]:
        """The active partitions of events whose position is where it should be; a copy, since Faust's set changes."""
        if self.app.rebalancing or not self._is_sought():
            return set()
        return {tp for tp in self._get_active_partitions() if not self._is_changelog_tp(tp)}

    def _is_sought(self) -> bool:
        return self._sought == (self.app.consumer_generation_id, self._revocations)

    def accepts(self, generation: int) -> bool:
        """Whether chunks of ``generation`` may be processed; those that may not will be fetched again."""
        return self.flow_active and self._is_sought() and generation == self.app.consumer_generation_id

    async def await_stable_offsets(self) -> None:
        """Return when no owner before can move the group's offsets any more; one that is gone is fenced for it."""
        waits_since = time.monotonic()
        while unstable := [tp.partition for tp, at in (await self._offsets(stable=True)).items() if not at.is_stable]:
            if time.monotonic() - waits_since > _UNSTABLE_S:
                await self.fence_owners(unstable)
                waits_since = time.monotonic()
            await asyncio.sleep(_UNSTABLE_POLL_S)

    async def claim(self, generation: int) -> None:
        """Make this worker the one that committed last for all its partitions; before it sends anything else.

        Whoever finds a transaction open later then knows whose it is, also where this worker dies in its first. The
        claim itself is no transaction: left open, that one would be nobody's.

        Raises:
            FencedError: the group has gone on to another generation.
        """
        member = self.member_of(generation)
        claims = {tp: max(at.offset, 0) for tp, at in (await self._offsets(stable=True)).items()}
        if claims:
            await self._thread.commit_as(member, claims, self.app.transactional_id)
        self.claims = {TP(*tp): offset for tp, offset in claims.items()}

    async def _offsets(self, *, stable: bool) -> Mapping[Any, GroupOffset]:
        partitions = [tp for tp in self.assignment() if not self._is_changelog_tp(tp)]
        return await self._thread.offsets_of_group(partitions, stable=stable)

    async def fence_owners(self, partitions: Iterable[int]) -> None:
        """Fence whoever committed last for these partitions: its open transaction is aborted."""
        held = set(partitions)
        committed = {tp: at for tp, at in (await self._offsets(stable=False)).items() if tp.partition in held}
        for owner in {of_partition.metadata for of_partition in committed.values()}:
            if owner and owner != self.app.transactional_id:
                log.warning("ending the open transaction of %s, which had partitions %s before", owner, sorted(held))
                await self.app.fence(owner)

    async def perform_seek(self) -> None:
        async with self._fetching:
            at = (self.app.consumer_generation_id, self._revocations)
            await super().perform_seek()
            self._sought = at

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        async with self._fetching:
            await super().seek_wait(partitions)

    def _chunk_message(self, tp: TP, records: Sequence[Any], generation: int) -> Message:
        last = records[-1]
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            last.offset,
            last.timestamp / 1000.0,
            last.timestamp_type,
            [],
            None,
            records,  # type: ignore[arg-type]  # a chunk stands where Faust has one record's bytes
            None,
            0,
            0,
            tp,
            generation_id=generation,
        )

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Every chunk would be a gap to Faust's bookkeeping of single offsets; ``settle`` replaces it."""

    # -- the engine's view of a source partition (streams.intake.Source)
    def has_more(self, tp: TP, received_offset: int) -> bool:
        """Whether records beyond ``received_offset`` are on their way already, or known to be at the broker."""
        return self._thread.is_behind(tp) or self._fetched.get(tp, -1) > received_offset

    def pause(self, tp: TP) -> None:
        """Fetch nothing more of ``tp``."""
        self.on_buffer_full(tp)

    def resume(self, tp: TP) -> None:
        """Fetch ``tp`` again."""
        self.on_buffer_drop(tp)

    # -- offsets out: Consumer.ack and Consumer._new_offset
    def member_of(self, generation: int) -> GroupMember:
        """Who this worker was to its group in ``generation``.

        Raises:
            FencedError: the group has gone on to another generation.
        """
        member = self._thread.member
        if member.generation != generation:
            raise FencedError
        return member

    def settle(self, tp: TP, next_offset: int) -> None:
        """Everything of ``tp`` below ``next_offset`` is processed, delivered and stored: it may be committed."""
        if not self.app.exactly_once:  # there the transaction has committed it
            self._settled[tp] = max(next_offset, self._settled.get(tp, 0))

    def ack(self, message: Message) -> bool:
        message.acked = True
        self._unacked_messages.discard(message)
        return True

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Any:
        return [tp for tp in self._settled if topics is None or tp in topics or tp.topic in topics]

    def _new_offset(self, tp: TP) -> int | None:
        return self._settled.get(tp)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """See the module's notes: a look that could only do harm."""

    async def wait_empty(self) -> None:
        """Let the engine finish what it has in work, then commit; Faust waits for acknowledgements here."""
        if self._drain is not None:
            await self._drain.drain()
        await self.commit_and_end_transactions()

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._revocations += 1
        # Rebalancing is eager: all partitions go, so their offsets must be committed before they do.
        await super().on_partitions_revoked(revoked)
        self._fetched.clear()
        for tp in revoked:
            self._settled.pop(tp, None)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        committed = await super().seek_to_committed()
        self.on_committed(
            {tp.partition for tp, offset in committed.items() if offset and not self._is_changelog_tp(tp)}
        )
        fresh = [tp for tp, offset in committed.items() if not offset and not self._is_changelog_tp(TP(*tp))]
        if fresh:
            await self._thread.seek_to_beginning(*(TopicPartition(*tp) for tp in fresh))
        return committed


def _nothing(_: object) -> None:
    pass


def _round_robin(records: Mapping[Any, Sequence[Any]], size: int) -> list[tuple[TP, Sequence[Any]]]:
    """Slices of at most ``size`` records, the partitions taking turns: none waits for another's backlog."""
    slices: list[tuple[TP, Sequence[Any]]] = []
    longest = max((len(of_partition) for of_partition in records.values()), default=0)
    for start in range(0, longest, size):
        for tp, of_partition in records.items():
            if start < len(of_partition):
                slices.append((TP(tp.topic, tp.partition), of_partition[start : start + size]))
    return slices


class BatchProducer(driver.Producer):
    """Faust's producer, whose client takes whole batches and is fenced."""

    app: Any

    @property
    def client(self) -> AIOKafkaProducer:
        """The started aiokafka producer, for ``create_batch`` and ``send_batch``."""
        return self._ensure_producer()

    def _new_producer(self, transactional_id: str | None = None) -> AIOKafkaProducer:
        arguments = {**self._settings_default(), **self._settings_auth()}
        if not self.app.exactly_once:
            return LeasedProducer(self.app.lease, **arguments)
        return TransactionalProducer(self.app.transactional_id, **arguments)


class ChunkTransport(driver.Transport):
    """Faust's aiokafka transport with the consumer and the producer above."""

    Consumer = ChunkConsumer
    Producer = BatchProducer
    fetch_wait_ms = 100

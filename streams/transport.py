"""Faust's Kafka transport, changed so that no event is lost and what is fetched travels as one event.

The changes to Faust's consumer live here and, where they are to its client, in ``streams.loop_consumer``; each names
what it replaces (faust-streaming 0.15.3, aiokafka 0.14).

- One Faust message is all that a fetch brings, of one partition or many. Faust's path of four asyncio tasks and a
  dozen calls is then paid once for it (transport/consumer.py, ``getmany`` and ``_drain_messages``), and no batch begins
  with the first partition's records while the others' are on that path.
- Only ``settle`` moves the offset that is committed. Faust acknowledges a message whose stream was skipped
  during a rebalance, or whose agent raised (streams.py, ``_py_aiter``: ``do_ack or value is skipped_value``),
  and then commits past an event that nobody processed.
- A partition without a committed offset is read from its beginning after a rebalance. Faust leaves it where
  the fetcher stood (aiokafka ``seek_to_committed`` seeks only where there is a commit), behind whatever a
  cleared queue held.
- Nothing is fetched across a seek, and no event before the restore is over. Faust's fetch goes on during a
  rebalance with a set of partitions that changes under it, and its last ``flow_control.resume`` empties every
  queue: what was fetched after the seek and lost there would not be read again.
- Nobody looks for livelocks. Faust's detector logs, from bookkeeping that ``settle`` replaces, and ends the worker
  where a partition has no position yet (drivers/aiokafka.py, ``verify_event_path``): after any rebalance.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportIncompatibleVariableOverride=false
# The point of this file is to change what Faust and aiokafka keep to themselves, and neither is typed throughout.

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.structs import TopicPartition
from faust.serializers.schemas import Schema
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage, Message

from operators.records import Records
from streams.lease import LeasedProducer
from streams.loop_consumer import LoopConsumer
from streams.protocol import GroupMember, GroupOffset
from streams.transactions import FencedError, TransactionalProducer

__all__ = [
    "BatchProducer",
    "ChunkConsumer",
    "ChunkSchema",
    "ChunkTransport",
    "Drain",
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


class ChunkConsumer(driver.Consumer):
    """Faust's consumer with chunks for messages and settlement for acknowledgement."""

    app: Any
    _thread: LoopConsumer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settled: dict[TP, int] = {}
        self._fetched: dict[TP, int] = {}
        """Last offset that was fetched, by source partition."""
        self._drain: Drain | None = None
        self.claims: Mapping[TP, int] = {}
        """What ``claim`` committed last."""
        self.check_sources: Callable[[set[int], set[int]], None] = _nothing
        """Is told of the partitions, and of those of which events were committed, before any is fetched; may refuse."""
        self.spare: Callable[[], Awaitable[object]] = _at_once
        """Returns when there is time for what the next fetch brings."""
        self._fetching = asyncio.Lock()
        """Held from a fetch until its records are handed on or dropped, and during a seek."""
        self._wanted: set[TP] = set()
        """Of the fetch that waits for records."""
        self._resumed = asyncio.Event()
        self._revocations = 0
        self._sought: tuple[int, int] | None = None
        """Generation and revocations at the last seek to the committed offsets."""

    def _new_consumer_thread(self) -> LoopConsumer:
        client = LoopConsumer(self, loop=self.loop, thread_loop=self.loop, beacon=self.beacon)
        client.fetch_wait_ms = self.transport.fetch_wait_ms  # type: ignore[attr-defined]
        return client

    def on_revoke_drain(self, drain: Drain) -> None:
        """Ask ``drain`` before partitions go and before the consumer stops."""
        self._drain = drain

    async def leave_group(self) -> None:
        """Give the partitions back without finishing anything: nobody has to wait for the session to run out."""
        await self._thread.leave_group()

    # -- records in: Consumer.getmany yields one message per record, this one per fetch
    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        if not self.flow_active:
            await self.wait(self.can_resume_flow)  # type: ignore[arg-type]  # an Event has what wait() needs
        async with self._fetching:
            self._resumed.clear()
            generation = self.app.consumer_generation_id
            wanted = self._wanted = self._fetchable()
            if wanted and not self.should_stop:
                fetched: Any = await self._getmany(wanted, min(timeout, _FETCH_TIMEOUT_S))
                records: dict[TP, Records] = {TP(*tp): part for tp, part in fetched.items() if len(part)}
                # Before anything else runs: their positions have moved, and on their way nobody else knows them.
                self._fetched |= {tp: part.last_offset for tp, part in records.items()}
                # Records that are dropped here were fetched before the seek that reads them again.
                if records and self.flow_active and self.app.consumer_generation_id == generation:
                    message = self._fetch_message(records, generation)
                    yield message.tp, message
        if not wanted:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._resumed.wait(), _IDLE_POLL_S)

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
                await self.app.fence(owner, held)

    async def perform_seek(self) -> None:
        async with self._fetching:
            at = (self.app.consumer_generation_id, self._revocations)
            await super().perform_seek()
            self._sought = at

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        async with self._fetching:
            await super().seek_wait(partitions)

    def _fetch_message(self, fetched: Mapping[TP, Records], generation: int) -> Message:
        """Faust takes it for the last record of the first partition."""
        tp, records = next(iter(fetched.items()))
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            records.last_offset,
            int(records.timestamps_ms[-1]) / 1000.0,
            0,
            [],
            None,
            fetched,  # type: ignore[arg-type]  # a fetch stands where Faust has one record's bytes
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
        return self._thread.behind(tp) > 0 or self._fetched.get(tp, -1) > received_offset

    def unfetched_events(self) -> float:
        """Events that the broker is known to have and that were not fetched yet; with transactions their marks too."""
        behind = [self._thread.behind(tp) for tp in self.assignment() if not self._is_changelog_tp(tp)]
        return sum(filter(math.isfinite, behind))

    def pause(self, tp: TP) -> None:
        """Fetch nothing more of ``tp``."""
        self.on_buffer_full(tp)

    def resume(self, tp: TP) -> None:
        """Fetch ``tp`` again, also by the fetch that waits for others: aiokafka may have its records already."""
        if tp in self._buffered_partitions:
            self.on_buffer_drop(tp)
            self._resumed.set()
            if tp in self._fetchable():  # a fetch that looked during a rebalance would wait for its end
                self._wanted.add(tp)
                self._thread.look_again()

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
        of_sources = {tp: offset for tp, offset in committed.items() if not self._is_changelog_tp(TP(*tp))}
        self.check_sources(
            {tp.partition for tp in of_sources}, {tp.partition for tp, offset in of_sources.items() if offset}
        )
        fresh = [tp for tp, offset in of_sources.items() if not offset]
        if fresh:
            await self._thread.seek_to_beginning(*(TopicPartition(*tp) for tp in fresh))
        return committed


def _nothing(_open: object, _committed: object) -> None:
    pass


async def _at_once() -> None:
    pass


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

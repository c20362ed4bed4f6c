"""The order of settlement: changelog and output delivered, then one store write a partition, then the offsets.

Whatever dies, and whenever: what is acknowledged is stored, what is stored is in the changelog, and what is in
the changelog but not acknowledged is known by the fences when it comes again.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

from operators.batches import DeadLetter
from operators.effects import Effects, Erase
from operators.events import JSON_HEADERS
from streams.dead_letters import headers_of, key_of, value_of
from streams.store import StateStore

__all__ = ["Checkpoint", "Group", "Settlement", "Targets"]

Change = tuple[bytes, bytes | None]
"""Key and new value of the state table; None deletes."""
Outgoing = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
Place = tuple[str, int]
"""Topic and partition."""
Outbox = defaultdict[Place, list[Outgoing]]


class Group(Protocol):
    """The consumer group, which fences."""

    @property
    def exactly_once(self) -> bool:
        """Whether ``transaction`` is one; a producer has one at a time."""
        ...

    def claims(self) -> Mapping[Any, int]:
        """Offsets that this worker committed when it took its partitions; empty where it uses no transactions."""
        ...

    def transaction(self, generation: int, offsets: Mapping[Any, int]) -> AbstractAsyncContextManager[None]:
        """Makes what is sent inside one with the offsets, for this worker as a member of the generation."""
        ...


class Targets(NamedTuple):
    """Where a batch's effects go."""

    changelog: str
    recommendations: str
    recommendations_partitions: int
    dead_letter: str
    dead_letter_partitions: int
    receipts: str = "erasure-receipts"
    receipts_partitions: int = 1
    requests: str = "erase"
    """Where the requests that are answered by receipts come from."""

    def of_lists(self, partition: int) -> Place:
        """Where the lists of a source partition go."""
        return self.recommendations, partition % self.recommendations_partitions

    def of_dead_letters(self, partition: int) -> Place:
        """Where the dead letters of a source partition go."""
        return self.dead_letter, partition % self.dead_letter_partitions

    def of_receipts(self, partition: int) -> Place:
        """Where the receipts of a source partition go."""
        return self.receipts, partition % self.receipts_partitions

    def of(self, partitions: Collection[int]) -> set[Place]:
        """Everywhere effects of these source partitions go."""
        places = (self.of_lists, self.of_dead_letters, self.of_receipts)
        of_all = {place(partition) for partition in partitions for place in places}
        return of_all | {(self.changelog, partition) for partition in partitions}


class Settlement(NamedTuple):
    """One processed batch, to be made durable."""

    effects: Effects
    snapshots: list[tuple[int, bytes, bytes]]
    """Partition, key and value of further records of the changelog."""
    offsets: dict[Any, int]
    """Source partition (Faust's TP) -> next offset, to be committed in the end."""
    generation: int = 0
    """Of the consumer group when the events were fetched."""


class Checkpoint:
    """Makes batches durable, in their order."""

    def __init__(
        self,
        producer: Callable[[], Any],
        store: StateStore,
        settle: Callable[[Any, int], None],
        targets: Targets,
        executor: Executor,
        group: Group | None = None,
    ) -> None:
        """``group``: None fences nothing."""
        self._producer = producer
        self._store = store
        self._settle = settle
        self._targets = targets
        self._executor = executor
        self._group = group
        self._sending = asyncio.Lock()
        self._last_offsets: dict[Any, int] = {}
        self._last_generation = 0

    async def settle(self, settlement: Settlement, before: Awaitable[None] | None = None) -> None:
        """Deliver, store, acknowledge; an error at any step leaves the offsets where they were.

        The receipt of an erasure is sent when tombstones are delivered and nothing is left in the store's files.

        Args:
            before: the settlement of the batch before, under way. It is delivered at the same time, sent first, but
                stored and acknowledged before this one; where it fails, this one does.

        Raises:
            KafkaError: a record was not delivered.
            FencedError: another worker has the partitions.
            Exception: whatever the store raises.
        """
        if before is not None and self._group is not None and self._group.exactly_once:
            await before
        changes = _changes_by_partition(settlement)
        erasures = settlement.effects.erasures
        if not (changes or settlement.offsets):  # nobody's transaction, of a member that may be none yet
            if before is not None:
                await before
            return
        events, requests = self._offsets(settlement)
        async with self._fence(settlement, changes, events):
            delivered = await self._deliver(self._outgoing(changes, settlement.effects))
        if before is not None:
            await before
        await asyncio.get_running_loop().run_in_executor(self._executor, self._write, changes, delivered)
        if erasures:
            partitions = {erase.user.partition for erase in erasures}
            await asyncio.get_running_loop().run_in_executor(self._executor, self._store.scrub, partitions)
            async with self._fence(settlement, partitions, requests):
                await self._deliver(self._receipts(erasures))
        for tp, offset in settlement.offsets.items():
            self._settle(tp, offset)

    def _offsets(self, settlement: Settlement) -> tuple[dict[Any, int], dict[Any, int]]:
        """What is committed with the batch's records, and what with its receipts: the requests that these answer."""
        if not settlement.effects.erasures:
            return settlement.offsets, {}
        requests = {tp: offset for tp, offset in settlement.offsets.items() if tp.topic == self._targets.requests}
        return {tp: offset for tp, offset in settlement.offsets.items() if tp not in requests}, requests

    def _fence(
        self, settlement: Settlement, changed: Iterable[int], offsets: Mapping[Any, int]
    ) -> AbstractAsyncContextManager[None]:
        """The transaction that commits ``offsets``; it names every changed partition, or it could not be fenced."""
        if self._group is None:
            return nullcontext()
        if settlement.generation != self._last_generation:
            self._last_offsets = dict(self._group.claims())
            self._last_generation = settlement.generation
        self._last_offsets.update(offsets)
        partitions = set(changed)
        again = {tp: offset for tp, offset in self._last_offsets.items() if tp.partition in partitions}
        return self._group.transaction(settlement.generation, {**again, **offsets})

    def _outgoing(self, changes: Mapping[int, Sequence[Change]], effects: Effects) -> Outbox:
        outbox: Outbox = defaultdict(list)
        targets = self._targets
        for partition, part in changes.items():
            outbox[targets.changelog, partition] = [(key, value, []) for key, value in part]
        for erase in effects.erasures:
            if erase.husk is not None:
                outbox[targets.of_lists(erase.user.partition)].append((erase.user.key, None, []))
        for user, value in effects.lists:
            outbox[targets.of_lists(user.partition)].append((user.key, value, JSON_HEADERS))
        for letter in effects.dead_letters:
            outbox[targets.of_dead_letters(letter.partition)].append(_dead_letter(letter))
        return outbox

    def _receipts(self, erasures: Sequence[Erase]) -> Outbox:
        outbox: Outbox = defaultdict(list)
        for erase in erasures:
            outbox[self._targets.of_receipts(erase.user.partition)].append((*erase.receipt, JSON_HEADERS))
        return outbox

    async def _deliver(self, outbox: Outbox) -> dict[int, int]:
        """Send whole batches and wait for the broker's word; returns changelog partition -> offset of the last record.

        Of two settlements that deliver at the same time, all of one is handed to the producer before the other.
        """
        producer = self._producer()
        async with self._sending:
            sent = [
                (topic, partition, batch.record_count(), await producer.send_batch(batch, topic, partition=partition))
                for (topic, partition), records in outbox.items()
                for batch in self._batches(records)
            ]
        # All of them, also after one has failed: an exception that nobody fetches is logged as a riddle.
        results = await asyncio.gather(*(future for *_, future in sent), return_exceptions=True)
        last: dict[int, int] = {}
        for (topic, partition, count, _), result in zip(sent, results, strict=True):
            if isinstance(result, BaseException):
                result.args = result.args or (f"topic {topic}, partition {partition}",)
                raise result
            if topic == self._targets.changelog:
                last[partition] = result.offset + count - 1
        return last

    def _batches(self, records: Iterable[Outgoing]) -> list[Any]:
        producer = self._producer()
        batches: list[Any] = []
        for key, value, headers in records:
            appended = batches[-1].append(key=key, value=value, timestamp=None, headers=headers) if batches else None
            if appended is None:  # a new batch takes any first record, and the broker refuses one that is too large
                batches.append(producer.create_batch())
                batches[-1].append(key=key, value=value, timestamp=None, headers=headers)
        for batch in batches:
            batch.close()
        return batches

    def _write(self, changes: Mapping[int, list[Change]], delivered: Mapping[int, int]) -> None:
        for partition, part in changes.items():
            self._store.write(partition, part, delivered[partition])


def _changes_by_partition(settlement: Settlement) -> dict[int, list[Change]]:
    changes: defaultdict[int, list[Change]] = defaultdict(list)
    for erase in settlement.effects.erasures:
        if erase.husk is not None:
            # The husk first: without it nothing would refuse what is read again.
            changes[erase.user.partition] += [erase.husk, (erase.user.key, None)]
    for user, value in settlement.effects.puts:
        changes[user.partition].append((user.key, value))
    for partition, key, value in settlement.snapshots:
        changes[partition].append((key, value))
    return dict(changes)


def _dead_letter(letter: DeadLetter) -> Outgoing:
    return key_of(letter), value_of(letter), headers_of(letter)

"""The simulator's worker: the real core and ``States``, and the steps of settlement around them."""

import random
from collections import defaultdict
from collections.abc import Callable
from typing import Final, NamedTuple

from operators.batches import Chunk, decode_chunks
from operators.effects import NO_EFFECTS
from operators.process import process_batch
from operators.ranking import Policy
from streams.checkpoint import Settlement, Targets
from streams.dead_letters import headers_of, value_of
from streams.states import States
from tests.chaos.disks import Changes, Disks
from tests.chaos.ledger import ENCODER, Ledger, Source, require
from tests.fakes import NOW_MS, TOPICS

__all__ = ["TARGETS", "CrashError", "Outgoing", "Settler", "Worker", "deliveries_of", "settle_in_order"]

TARGETS: Final = Targets("changelog", "lists", 2, "dead", 1)
_POLICY: Final = Policy(list_items=2, explain=False, repeat_weight=0)
"""Without a weight on repeats a list is the encoder's own top k, which the ledger takes for the oracle."""
_SNAPSHOT_EVENTS: Final = 10
"""Events between two popularity snapshots; ``limits.popularity_checkpoint_events`` would never be reached."""


class CrashError(Exception):
    """The worker is dead: nothing that it holds in memory is left, nothing that it began goes on."""


class Outgoing(NamedTuple):
    """A record on its way to a topic."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class Worker:
    """One worker: the real core and the real ``States`` over a store, and the steps around them.

    Every step goes through ``tick``, where the schedule lets it crash, commit, flush or compute the next batch.
    """

    def __init__(self, ledger: Ledger, disks: Disks, settler: "Settler", seed: str) -> None:
        self.ledger = ledger
        self.network = random.Random(seed)
        """Draws the order in which records of different partitions arrive."""
        self.store = disks.new()
        self.step = 0
        self.agenda: dict[int, list[Callable[[], None]]] = {}
        """What happens before which step."""
        self._disks = disks
        self._settler = settler
        self._start()

    def _start(self) -> None:
        self.dead = False
        self.states = States(self.store, self.ledger.stream.partitions, 0)
        self.positions: dict[Source, int] = {}
        self.settled: dict[Source, int] = {}
        self.pending: Settlement | None = None
        self.agenda.clear()

    def restart(self, rng: random.Random, *, wiped: bool) -> None:
        """A new process on the disk that the crash left."""
        crashed = self.store
        self.store = self._disks.new() if wiped else self._disks.after_crash(crashed, rng)
        crashed.close_all()
        self._start()

    def tick(self, kind: str) -> None:
        """The moment before a step of the given kind."""
        if self.dead:
            raise CrashError
        self.ledger.at = kind
        self.step += 1
        for interject in self.agenda.pop(self.step, ()):
            interject()

    def crash(self) -> None:
        """Die here."""
        self.dead = True
        self.ledger.crashes[self.ledger.at] += 1
        raise CrashError

    # -- batches in
    def take(self, rng: random.Random) -> list[Chunk]:
        """The next records of some of the sources."""
        chunks: list[Chunk] = []
        for source, position in self.positions.items():
            records = self.ledger.stream.records[source]
            if position < len(records) and (count := min(rng.randrange(6), len(records) - position)):
                part = records[position : position + count]
                chunks.append(Chunk.of(source.topic, TOPICS.index(source.topic), source.partition, part))
                self.positions[source] = position + count
        rng.shuffle(chunks)
        return chunks

    def compute(self, chunks: list[Chunk]) -> None:
        """As ``Engine._compute_in_thread`` and the offsets of ``Engine._settle``."""
        batch = decode_chunks(chunks, NOW_MS)
        effects = process_batch(
            batch,
            self.states.load(batch.users),
            self.states.popularity({user.partition for user in batch.users}),
            ENCODER,
            _POLICY,
            topics=TOPICS,
            withdrawn=frozenset(),
            now_ms=NOW_MS,
        )
        offsets = {Source(chunk.topic, chunk.partition): chunk.records.last_offset + 1 for chunk in chunks}
        self.pending = Settlement(effects, self.states.due_snapshots(_SNAPSHOT_EVENTS), offsets)
        self.ledger.duplicates += effects.counts.duplicates

    # -- settlement out: the ports that the real checkpoint is given too
    def settle_batch(self, settlement: Settlement) -> None:
        """All steps of a settlement, or a ``CrashError``."""
        self.ledger.trace.append([])
        self._settler(self, settlement)
        self.tick("settled")

    def deliver(self, topic: str, partition: int, record: Outgoing) -> int:
        """A record reaches its topic; returns its offset."""
        self.tick(topic)
        self.ledger.note("deliver", topic, partition, record.key)
        if topic == TARGETS.changelog:
            return self.ledger.take_change(partition, record.key or b"", record.value or b"")
        if topic == TARGETS.recommendations:
            return self.ledger.take_list(partition, record.key or b"", record.value or b"")
        return self.ledger.take_letter(record.key, record.value, dict(record.headers))

    def write(self, partition: int, changes: Changes, offset: int) -> None:
        """The store takes what the changelog holds up to ``offset``."""
        self.tick("write")
        self.ledger.note("write", partition, offset)
        self.ledger.check_prefix(partition, self.store.offset(partition), changes, offset)
        self.store.write(partition, changes, offset)

    def settle(self, source: Source, offset: int) -> None:
        """Everything of ``source`` below ``offset`` may be committed; as ``ChunkConsumer.settle``."""
        self.tick("settle")
        self.ledger.note("settle", source, offset)
        self.settled[source] = max(offset, self.settled.get(source, 0))

    def commit(self) -> None:
        """Commit what is settled."""
        for source, offset in self.settled.items():
            self.tick("commit")
            self.ledger.commit(source, offset)

    # -- rebalances
    def drain(self, *, commit: bool) -> None:
        """As ``Engine.drain`` and ``ChunkConsumer.wait_empty``; ``commit`` is whether the broker takes it."""
        if self.pending is not None:
            self.settle_batch(self.pending)
            self.pending = None
        self.settle_batch(Settlement(NO_EFFECTS, self.states.due_snapshots(1), {}))
        self.states.forget()
        if commit:
            self.commit()
        self.settled.clear()
        self.positions.clear()

    def assign(self, partitions: list[int], rng: random.Random) -> None:
        """Open the stores, restore each from the changelog, and read on from the committed offsets."""
        for partition in sorted(self.store.partitions - set(partitions)):
            self.store.close(partition)
        for partition in partitions:
            self.store.open(partition)
            stored = self.store.offset(partition)
            log = self.ledger.changelog[partition]
            at = 0 if stored is None else stored + 1
            require(at <= len(log), f"store of partition {partition} is ahead of its changelog: Faust would not start")
            while at < len(log):
                self.tick("restore")
                part = log[at : at + rng.randrange(1, 9)]
                at += len(part)
                self.store.write(partition, part, at - 1)
        self.tick("assigned")
        committed = self.ledger.committed
        self.positions = {source: committed[source] for source in committed if source.partition in partitions}


Settler = Callable[[Worker, Settlement], None]


def deliveries_of(settlement: Settlement) -> tuple[dict[int, Changes], dict[tuple[str, int], list[Outgoing]]]:
    """Changes by partition, and all records to be sent by topic and partition, each in its order."""
    changes: defaultdict[int, Changes] = defaultdict(list)
    outgoing: defaultdict[tuple[str, int], list[Outgoing]] = defaultdict(list)
    for user, value in settlement.effects.puts:
        changes[user.partition].append((user.key, value))
    for partition, key, value in settlement.snapshots:
        changes[partition].append((key, value))
    for partition, part in changes.items():
        outgoing[TARGETS.changelog, partition] = [Outgoing(key, value, []) for key, value in part]
    for user, value in settlement.effects.lists:
        place = TARGETS.recommendations, user.partition % TARGETS.recommendations_partitions
        outgoing[place].append(Outgoing(user.key, value, []))
    for letter in settlement.effects.dead_letters:
        letter_record = Outgoing(letter.record.key, value_of(letter), headers_of(letter))
        outgoing[TARGETS.dead_letter, letter.partition % TARGETS.dead_letter_partitions].append(letter_record)
    return dict(changes), dict(outgoing)


def settle_in_order(worker: Worker, settlement: Settlement) -> None:
    """The order of ``Checkpoint.settle``: delivered, then stored, then settled."""
    changes, outgoing = deliveries_of(settlement)
    delivered = _deliver(worker, outgoing)
    for partition, part in changes.items():
        worker.write(partition, part, delivered[TARGETS.changelog, partition])
    for source, offset in settlement.offsets.items():
        worker.settle(source, offset)


def _deliver(worker: Worker, outgoing: dict[tuple[str, int], list[Outgoing]]) -> dict[tuple[str, int], int]:
    """Records of a partition arrive in order, those of different ones in any; returns the last offsets."""
    last: dict[tuple[str, int], int] = {}
    waiting = [(place, iter(records), len(records)) for place, records in outgoing.items()]
    while waiting:
        n = worker.network.randrange(len(waiting))
        place, records, left = waiting[n]
        last[place] = worker.deliver(*place, next(records))
        waiting[n] = place, records, left - 1
        if left == 1:
            del waiting[n]
    return last

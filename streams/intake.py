"""Fetched chunks on their way to the engine, merged over the topics of a partition by record time.

A user's views, clicks and purchases come on one partition number of three topics. Where a backlog is read, one
topic's records may be fetched hours ahead of another's; taken as they come, the later ones would make the
earlier ones late. So the chunk whose first record is the oldest goes first, and a partition waits a moment for
a topic that is known to have more but has nothing here (as Kafka Streams does, ``max.task.idle.ms``).

The grain is a chunk of ``limits.chunk_records_max``: two that overlap in time may fall into two batches. A user's
events are folded into their places all the same; but the list of the later batch, the user's last one, may then be of
an earlier event.
"""

import heapq
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from operators import limits
from operators.batches import Chunk

__all__ = ["Intake", "IntakeQueue", "Source"]


class Intake(NamedTuple):
    """A chunk with where it comes from."""

    tp: Any
    """Faust's TP of the source partition: topic, partition."""
    chunk: Chunk
    generation: int
    """Of the consumer group when the chunk was fetched."""


class Source(Protocol):
    """Where the chunks come from: the consumer."""

    def has_more(self, tp: Any, received_offset: int) -> bool:
        """Whether records of ``tp`` beyond ``received_offset`` are known to exist, on the way or at the broker."""
        ...

    def pause(self, tp: Any) -> None:
        """Fetch nothing more of ``tp``."""
        ...

    def resume(self, tp: Any) -> None:
        """Fetch ``tp`` again."""
        ...


class IntakeQueue:
    """Chunks by source partition. One thread uses it."""

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._chunks: dict[Any, deque[Intake]] = {}
        self._events: defaultdict[Any, int] = defaultdict(int)
        self._received: dict[Any, int] = {}
        self._waiting_since: dict[int, float] = {}
        self._given_up: set[int] = set()
        self.unaligned = 0
        """How often a partition went on without a topic that had more."""

    def __len__(self) -> int:
        return sum(self._events.values())

    def put(self, intake: Intake) -> None:
        """Add a chunk of any size, which is cut to the grain; a source partition with a full queue is paused."""
        tp = intake.tp
        parts = intake.chunk.parts(limits.chunk_records_max)
        self._chunks.setdefault(tp, deque()).extend(intake._replace(chunk=part) for part in parts)
        self._events[tp] += len(intake.chunk.records)
        self._received[tp] = intake.chunk.records.last_offset
        if self._events[tp] >= limits.partition_queue_events_max:
            self._source.pause(tp)

    def clear(self) -> None:
        """Drop everything, and what is known of the source partitions."""
        self._chunks.clear()
        self._events.clear()
        self._received.clear()
        self._waiting_since.clear()
        self._given_up.clear()

    def take(self, events_max: int, topics: Sequence[str]) -> list[Intake]:
        """The oldest chunks of all partitions, up to ``events_max`` records but one chunk at least.

        Empty where there is nothing, or where every partition with chunks waits for one of its other
        ``topics``; that takes ``limits.align_wait_ms`` at most.
        """
        taken: list[Intake] = []
        events = 0
        waiting = {tp.partition for tp, chunks in self._chunks.items() if chunks}
        self._waiting_since = {p: since for p, since in self._waiting_since.items() if p in waiting}
        held = {partition for partition in waiting if self._waits(partition, topics)}
        heads = [(_first_ms(chunks), tp) for tp, chunks in self._chunks.items() if chunks]
        heapq.heapify(heads)
        while heads:
            _, tp = heapq.heappop(heads)
            if tp.partition in held:
                continue
            chunks = self._chunks[tp]
            size = len(chunks[0].chunk.records)
            if taken and events + size > events_max:
                break
            taken.append(self._pop(tp))
            events += size
            if chunks:
                heapq.heappush(heads, (_first_ms(chunks), tp))
            elif self._has_chunks(tp.partition, topics) and self._waits(tp.partition, topics):
                held.add(tp.partition)
        return taken

    def _pop(self, tp: Any) -> Intake:
        intake = self._chunks[tp].popleft()
        before = self._events[tp]
        self._events[tp] -= len(intake.chunk.records)
        if before >= limits.partition_queue_events_max // 2 > self._events[tp]:
            self._source.resume(tp)
        return intake

    def _waits(self, partition: int, topics: Sequence[str]) -> bool:
        if not self._lacks(partition, topics):
            self._waiting_since.pop(partition, None)
            self._given_up.discard(partition)
            return False
        since = self._waiting_since.setdefault(partition, self._clock())
        if (self._clock() - since) * 1000 < limits.align_wait_ms:
            return True
        self.unaligned += partition not in self._given_up
        self._given_up.add(partition)
        return False

    def _has_chunks(self, partition: int, topics: Sequence[str]) -> bool:
        return any(self._chunks.get(_TopicPartition(topic, partition)) for topic in topics)

    def _lacks(self, partition: int, topics: Sequence[str]) -> bool:
        for topic in topics:
            tp = _TopicPartition(topic, partition)
            if not self._chunks.get(tp) and self._source.has_more(tp, self._received.get(tp, -1)):
                return True
        return False


def _first_ms(chunks: Sequence[Intake]) -> int:
    return int(chunks[0].chunk.records.timestamps_ms[0])


class _TopicPartition(NamedTuple):
    """Equal to, and hashed like, every client's (topic, partition) tuple."""

    topic: str
    partition: int

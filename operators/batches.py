"""Records in, checked and grouped by user: what a batch is made of."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from operators.columns import Columns, decode_columns
from operators.erasure import ERASURE, ErasureRequest, decode_erasure
from operators.events import Rejected
from operators.privacy import Pseudonyms
from operators.records import Records

__all__ = ["Batch", "Chunk", "DeadLetter", "UserKey", "decode_chunks"]


class Chunk(NamedTuple):
    """Consecutive records of one partition of one event topic."""

    topic: str
    event_type: int
    partition: int
    records: Records

    @classmethod
    def of(cls, topic: str, event_type: int, partition: int, records: Iterable[Any]) -> "Chunk":
        """The same of any records; see ``Records.of``."""
        return cls(topic, event_type, partition, Records.of(records))

    def parts(self, records_max: int) -> "list[Chunk]":
        """The same records in chunks of at most ``records_max``."""
        starts = range(0, len(self.records), records_max)
        return [self._replace(records=self.records.part(start, start + records_max)) for start in starts]


class UserKey(NamedTuple):
    """A user as the state table knows it."""

    partition: int
    key: bytes


class DeadLetter(NamedTuple):
    """A record that is no event, with the reason."""

    topic: str
    partition: int
    record: Any
    rejected: Rejected


class Batch(NamedTuple):
    """Checked records, grouped by user; a user's events stand together, in event-time order."""

    users: list[UserKey]
    """In order of first arrival."""
    events: Columns
    bounds: list[int]
    """The events of user n are those from ``bounds[n]`` up to ``bounds[n + 1]``."""
    dead_letters: list[DeadLetter]
    """Those of erasures, then those of events, in the order of the chunks."""
    records: int
    erasures: list[tuple[UserKey, ErasureRequest]]
    """In the order of the erase topic within each partition."""

    @property
    def touched(self) -> list[UserKey]:
        """Every user whose state the batch needs."""
        return list(dict.fromkeys([*self.users, *(user for user, _ in self.erasures)]))


def decode_chunks(chunks: Sequence[Chunk], now_ms: int, pseudonyms: Pseudonyms | None = None) -> Batch:
    """Check every record of the chunks and group the events by user; with ``pseudonyms`` no plain id gets further."""
    dead_letters: list[DeadLetter] = []
    erasures: list[tuple[UserKey, ErasureRequest]] = []
    for chunk in chunks:
        if chunk.event_type == ERASURE:
            _decode_erasures(chunk, now_ms, erasures, dead_letters, pseudonyms)
    of_events = [chunk for chunk in chunks if chunk.event_type != ERASURE]
    events, counts = _decode_events(of_events, now_ms, dead_letters)
    users: list[UserKey] = []
    places = {chunk.partition: _Places(chunk.partition, users, pseudonyms) for chunk in of_events}
    starts = [0, *accumulate(counts)]
    user_of = np.empty(events.size, np.int64)
    for chunk, start, end in zip(of_events, starts, starts[1:], strict=False):
        place_of = places[chunk.partition].__getitem__
        user_of[start:end] = np.fromiter(map(place_of, events.keys[start:end]), np.int64, end - start)
    order = events.grouped(user_of)
    bounds = np.searchsorted(user_of[order], np.arange(len(users) + 1)).tolist()
    records = sum(len(chunk.records) for chunk in chunks)
    return Batch(users, events.in_order(order), bounds, dead_letters, records, erasures)


def _decode_events(chunks: Sequence[Chunk], now_ms: int, dead_letters: list[DeadLetter]) -> tuple[Columns, list[int]]:
    """The events of the chunks, and how many of them are each chunk's."""
    events, rejected = decode_columns([(chunk.records, chunk.event_type) for chunk in chunks], now_ms)
    counts = [len(chunk.records) for chunk in chunks]
    starts = [0, *accumulate(counts)]
    for place, reason in rejected:
        n = bisect_right(starts, place) - 1
        counts[n] -= 1
        record = chunks[n].records.record(place - starts[n])
        dead_letters.append(DeadLetter(chunks[n].topic, chunks[n].partition, record, reason))
    return events, counts


def _decode_erasures(
    chunk: Chunk,
    now_ms: int,
    erasures: list[tuple[UserKey, ErasureRequest]],
    dead_letters: list[DeadLetter],
    pseudonyms: Pseudonyms | None,
) -> None:
    for record in chunk.records:
        request = decode_erasure(record.value, record.key, record.headers, record.offset, now_ms)
        if isinstance(request, Rejected):
            dead_letters.append(DeadLetter(chunk.topic, chunk.partition, record, request))
        else:
            key = pseudonyms(request.key) if pseudonyms else request.key
            erasures.append((UserKey(chunk.partition, key), request._replace(key=key)))


class _Places(dict[bytes, int]):
    """Key of a user of one partition -> place in ``users``, where a new user is added."""

    def __init__(self, partition: int, users: list[UserKey], pseudonyms: Pseudonyms | None) -> None:
        super().__init__()
        self._partition = partition
        self._users = users
        self._pseudonyms = pseudonyms

    def __missing__(self, key: bytes) -> int:
        place = self[key] = len(self._users)
        self._users.append(UserKey(self._partition, self._pseudonyms(key) if self._pseudonyms else key))
        return place

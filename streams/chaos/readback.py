"""What a run left on the broker, read by a client that the worker does not use."""

import hashlib
import struct
from collections import defaultdict
from collections.abc import Generator, Sequence
from typing import Final, NamedTuple

from operators import state
from operators.state import UserState
from streams.clients.kafka import Partition, Record, consumer, describe_cluster, partition_count
from streams.clients.reading import read, settled_ends
from streams.settings import Settings
from streams.topics import changelog_topic

__all__ = ["Change", "Changelog", "Commit", "changelog_of", "commits_of", "digest_of", "final_states", "records_of"]

_OFFSETS_TOPIC: Final = "__consumer_offsets"
_OFFSET_KEY_VERSIONS: Final = (0, 1)
"""Keys of other versions are of group metadata."""


class Commit(NamedTuple):
    """One offset that the worker's group committed."""

    time_ms: int
    """When the broker appended it, by its own clock."""
    topic: str
    partition: int
    offset: int


class Change(NamedTuple):
    """One record of the changelog, without its value."""

    offset: int
    time_ms: int
    """When the broker appended it."""
    digest: bytes | None
    """Of the value; None for a tombstone."""
    fences: Sequence[int]
    """Of the user's state; empty for anything else."""


class Changelog(NamedTuple):
    """The changelog of the user table, in order."""

    states: dict[str, UserState]
    """The last state of every user."""
    changes: dict[int, dict[bytes, list[Change]]]
    """By partition and key."""


def records_of(settings: Settings, topic: str) -> Generator[Record]:
    """Every record of a topic, in order within each partition."""
    count = partition_count(describe_cluster(settings.broker), topic)
    yield from _records(settings, [Partition(topic, number) for number in range(count)])


def final_states(settings: Settings) -> dict[str, UserState]:
    """The last state of every user in the changelog."""
    return changelog_of(settings).states


def changelog_of(settings: Settings) -> Changelog:
    """All that the changelog says."""
    last: dict[str, bytes | None] = {}
    changes: defaultdict[int, dict[bytes, list[Change]]] = defaultdict(dict)
    for record in records_of(settings, changelog_topic(settings.worker.app_id)):
        key, value = record.key or b"", record.value
        is_user = key[:1] != b"\x00"
        fences = state.decode(value).fences if is_user and value is not None else ()
        change = Change(record.offset, record.timestamp, digest_of(value), fences)
        changes[record.partition].setdefault(key, []).append(change)
        if is_user:
            last[key.decode()] = value
    states = {user: state.decode(value) for user, value in last.items() if value is not None}
    return Changelog(states, dict(changes))


def digest_of(value: bytes | None) -> bytes | None:
    """A short digest, so that a long changelog fits in memory."""
    return None if value is None else hashlib.blake2b(value, digest_size=8).digest()


def commits_of(settings: Settings) -> list[Commit]:
    """Every offset that the worker's group ever committed, in order within each partition."""
    with consumer(settings.broker) as client:
        count = len(client.partitions_for_topic(_OFFSETS_TOPIC) or ())
    found: list[Commit] = []
    for record in _records(settings, [Partition(_OFFSETS_TOPIC, number) for number in range(count)]):
        key, value = record.key or b"", record.value
        if value is None or struct.unpack_from(">h", key)[0] not in _OFFSET_KEY_VERSIONS:
            continue
        group, at = _text(key, 2)
        topic, at = _text(key, at)
        (partition,) = struct.unpack_from(">i", key, at)
        (offset,) = struct.unpack_from(">q", value, 2)
        if group == settings.worker.app_id:
            found.append(Commit(record.timestamp, topic, partition, offset))
    return found


def _records(settings: Settings, partitions: Sequence[Partition]) -> Generator[Record]:
    with consumer(settings.broker) as client:
        ends = settled_ends(client, partitions)
        yield from read(client, dict(client.beginning_offsets(partitions)), ends)


def _text(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", data, at)
    return data[at + 2 : at + 2 + size].decode(), at + 2 + size

"""Decoded user states between the store and the core: a bounded cache that is read through in batches."""

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import Final

from operators import limits, state
from operators.batches import UserKey
from operators.candidates.covisitation_parts import CoVisitationError, changed_parts, restore
from operators.candidates.live_covisitation import LiveCoVisitation
from operators.candidates.popularity import Popularity, PopularityError
from operators.erasure import ERASURE, husk_key
from operators.partition import partition_of
from operators.state import StateError, UserState
from streams.sources import SOURCES_KEY, Sources, compare, require_known
from streams.store import StateStore

__all__ = ["POPULARITY_KEY", "States"]

POPULARITY_KEY: Final = b"\x00popularity"
"""Key of a partition's popularity snapshot; ids hold no control character, so no user has this key."""
COVISITATION_KEY: Final = b"\x00covisitation-"
"""Before the name of a part of a partition's co-visitation."""

_NO_SOURCES: Final[Sources] = MappingProxyType({})
_BATCHES_IN_WORK_MAX: Final = limits.computed_batches_max + limits.settling_batches_max

log = logging.getLogger(__name__)


class States:
    """User states and popularity of the open partitions. One thread uses it at a time.

    The cache never drops a user whose batch may still be in settlement, and who would come back from the store
    without its events: it drops the least recently used, and it holds all users that the batches in work can touch.
    """

    def __init__(
        self,
        store: StateStore,
        partitions: int,
        cache_users_max: int,
        *,
        plain_ids: bool = True,
        sources: Sources = _NO_SOURCES,
        keeps_covisitation: bool = False,
    ) -> None:
        """
        Args:
            plain_ids: keys are the ids that producers partition by, and no pseudonyms.
            sources: the event topics and the changelog; without them those of the states are not looked at.
            keeps_covisitation: lists are made with it.
        """
        self._store = store
        self._partitions = partitions
        self._plain_ids = plain_ids
        self._cache: OrderedDict[UserKey, UserState] = OrderedDict()
        self._cache_users_max = max(cache_users_max, _BATCHES_IN_WORK_MAX * limits.batch_events_max)
        self._popularity: dict[int, Popularity] = {}
        self._covisitation: dict[int, LiveCoVisitation] = {}
        self._keeps_covisitation = keeps_covisitation
        self._snapshot_events: dict[int, int] = {}
        self._sources = sources
        self._sources_due: dict[int, bytes] = {}
        self._readers = ThreadPoolExecutor(limits.load_threads_max, "headwater-load")
        self.misplaced_users = 0
        """New users whose partition is not the one that Kafka's default partitioner gives."""

    def __len__(self) -> int:
        return len(self._cache)

    def load(self, users: Iterable[UserKey]) -> dict[UserKey, UserState]:
        """The state of every user, a fresh one for a new user."""
        loaded: dict[UserKey, UserState] = {}
        missing: defaultdict[int, list[UserKey]] = defaultdict(list)
        for user in users:
            cached = self._cache.get(user)
            if cached is None:
                missing[user.partition].append(user)
            else:
                self._cache.move_to_end(user)
                loaded[user] = cached
        for users_read, values in self._read(missing):
            for user, value in zip(users_read, values, strict=True):
                self._cache[user] = loaded[user] = self._new_user(user) if value is None else _decode(user, value)
        while len(self._cache) > self._cache_users_max:
            self._cache.popitem(last=False)
        return loaded

    def _read(
        self, missing: Mapping[int, Sequence[UserKey]]
    ) -> Iterable[tuple[Sequence[UserKey], Sequence[bytes | None]]]:
        """Users with what is stored of them. Many are read in pieces, several at a time."""
        pieces = [
            users[start : start + limits.load_users_max]
            for users in missing.values()
            for start in range(0, len(users), limits.load_users_max)
        ]
        if sum(map(len, pieces)) <= limits.load_users_max:
            return zip(pieces, map(self._stored, pieces), strict=True)
        return zip(pieces, self._readers.map(self._stored, pieces), strict=True)

    def _stored(self, users: Sequence[UserKey]) -> Sequence[bytes | None]:
        """Of users of one partition: the state, or where there is none what an erasure left of one."""
        partition = users[0].partition
        values = self._store.load(partition, [user.key for user in users])
        new = [user for user, value in zip(users, values, strict=True) if value is None]
        if not new:
            return values
        husks = iter(self._store.load(partition, [husk_key(user.key) for user in new]))
        return [next(husks) if value is None else value for value in values]

    def drop_erased(self, user: UserKey, next_offset: int) -> None:
        """Let go of an erased user's id: the erasure up to ``next_offset`` of the erase topic is in the store.

        A user who has come back, or was erased again since, stays.
        """
        cached = self._cache.get(user)
        if cached is not None and not cached.types and cached.fences[ERASURE] == next_offset:
            del self._cache[user]

    def popularity(self, partitions: Iterable[int]) -> Mapping[int, Popularity]:
        """Popularity by partition, restored from the store where the cache has none.

        Raises:
            SourceError: a partition's states were made of another event topic of the same name.
            StateError: what is stored of the partition is damaged.
        """
        for partition in partitions:
            if partition not in self._popularity:
                changed = self._changed_sources(partition, self._store.get(partition, SOURCES_KEY))
                if changed is not None:
                    self._sources_due[partition] = changed
                restored = self._popularity[partition] = self._restored_popularity(partition)
                self._snapshot_events[partition] = restored.events
        return self._popularity

    def _restored_popularity(self, partition: int) -> Popularity:
        value = self._store.get(partition, POPULARITY_KEY)
        try:
            return Popularity() if value is None else Popularity.restore(value)
        except PopularityError as error:
            raise _damaged("popularity", partition, error) from None

    def check_sources(self, partitions: Iterable[int], committed: Container[int]) -> None:
        """Refuse open partitions whose states are of other topics than there are, before an event is folded.

        Args:
            committed: partitions of which the group has committed events, so that there are states.

        Raises:
            SourceError: a topic was made anew; or the changelog, in which they were, is gone or was emptied.
            StateError: the record of them is damaged.
        """
        for partition in partitions:
            stored = self._store.get(partition, SOURCES_KEY)
            self._changed_sources(partition, stored)
            if partition in committed:
                require_known(stored, self._sources, partition)

    def _changed_sources(self, partition: int, stored: bytes | None) -> bytes | None:
        try:
            return compare(stored, self._sources)
        except ValueError as error:
            raise _damaged("record of the topics that the states are made of", partition, error) from None

    def covisitation(self, partitions: Iterable[int]) -> Mapping[int, LiveCoVisitation] | None:
        """Co-visitation by partition, restored from the store where the cache has none; None where lists need none.

        Raises:
            StateError: what is stored of a partition is damaged.
        """
        if not self._keeps_covisitation:
            return None
        for partition in partitions:
            if partition not in self._covisitation:
                self._covisitation[partition] = self._restored_covisitation(partition)
        return self._covisitation

    def _restored_covisitation(self, partition: int) -> LiveCoVisitation:
        try:
            return restore(partial(self._covisitation_part, partition))
        except CoVisitationError as error:
            raise _damaged("co-visitation", partition, error) from None

    def _covisitation_part(self, partition: int, name: str) -> bytes | None:
        return self._store.get(partition, COVISITATION_KEY + name.encode())

    def due_snapshots(self, events: int) -> list[tuple[int, bytes, bytes]]:
        """Partition, key and value of what else the changelog is to hold.

        Popularity and co-visitation of the partitions that have moved by at least ``events`` since the last snapshot,
        and the sources of those whose states do not name them yet.
        """
        due = [(partition, SOURCES_KEY, value) for partition, value in self._sources_due.items()]
        self._sources_due.clear()
        for partition, popularity in self._popularity.items():
            if popularity.events - self._snapshot_events[partition] >= events:
                self._snapshot_events[partition] = popularity.events
                due.append((partition, POPULARITY_KEY, popularity.snapshot()))
                if partition in self._covisitation:
                    parts = changed_parts(self._covisitation[partition])
                    due += [(partition, COVISITATION_KEY + name.encode(), value) for name, value in parts]
        return due

    def close(self) -> None:
        """Give the threads back; nothing is loaded any more."""
        self._readers.shutdown(wait=True)

    def forget(self) -> None:
        """Drop everything that is not in the store; for a rebalance, when nothing is in work."""
        self._cache.clear()
        self._popularity.clear()
        self._covisitation.clear()
        self._snapshot_events.clear()
        self._sources_due.clear()

    def _new_user(self, user: UserKey) -> UserState:
        expected = partition_of(user.key, self._partitions)
        if self._plain_ids and expected != user.partition:
            self.misplaced_users += 1
            if self.misplaced_users == 1:
                log.warning(
                    "user %r came on partition %d, but Kafka's default partitioner (murmur2) puts it on %d: a producer"
                    " uses another one (librdkafka's default is one). Its events are processed, but a user whose"
                    " events come on several partitions has several states. Set partitioner=murmur2_random there;"
                    " `headwater doctor` shows the topics concerned",
                    user.key.decode(errors="replace"),
                    user.partition,
                    expected,
                )
        return UserState()


def _decode(user: UserKey, value: bytes) -> UserState:
    try:
        return state.decode(value)
    except StateError as error:
        raise _damaged(f"state of user {user.key.decode(errors='replace')!r}", user.partition, error) from None


def _damaged(what: str, partition: int, error: Exception) -> StateError:
    return StateError(
        f"{what} on partition {partition}: {error}. If the bytes are damaged delete the partition's directory, which is"
        " restored from the changelog, and start this worker again"
    )

"""What the simulator's topics hold, and what must be true of it after every step and at the end."""

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from operator import lt
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from operators import state
from operators.batches import UserKey
from operators.candidates.popularity import Popularity
from operators.partition import partition_of
from operators.ranking import Cause
from operators.state import UserState
from streams.states import POPULARITY_KEY
from tests.fakes import NOW_MS, TOPICS, FakeEncoder, FakeRecord, full_pass, items, record
from tests.oracle import OracleEvent, OracleUser

__all__ = ["ENCODER", "InvariantError", "Ledger", "Place", "Source", "Stream", "require"]

ENCODER: Final = FakeEncoder(items(12), width=3)
_ITEMS: Final = [*items(12), "unheard-of"]
_USERS: Final = [f"user-{n}" for n in range(6)]
_PARTITION_OF: Final = {count: [partition_of(user.encode(), count) for user in _USERS] for count in (2, 3)}
_START_MS: Final = NOW_MS - 10**7


class InvariantError(AssertionError):
    """An invariant that does not hold."""


class Source(NamedTuple):
    """A partition of an event topic."""

    topic: str
    partition: int


class Place(NamedTuple):
    """Where a source record stands."""

    topic: str
    partition: int
    offset: int


class _Ranked(msgspec.Struct):
    item_id: str


class _List(msgspec.Struct):
    user_id: str
    caused_by: list[Cause]
    items: list[_Ranked]

    @property
    def causes(self) -> list[Place]:
        """The events that caused it."""
        return [Place(cause.topic, cause.partition, cause.offset) for cause in self.caused_by]


_decode_list: Final = msgspec.json.Decoder(_List).decode


def require(holds: bool, problem: str) -> None:
    """Raise ``InvariantError`` unless it holds."""
    if not holds:
        raise InvariantError(problem)


class Stream:
    """Records of three topics: good, produced twice, out of order, and bad ones."""

    def __init__(self, rng: random.Random) -> None:
        self.partitions = rng.choice((2, 3))
        sources = [Source(topic, partition) for topic in TOPICS for partition in range(self.partitions)]
        self.records: dict[Source, list[FakeRecord]] = {source: [] for source in sources}
        self.events: defaultdict[UserKey, list[OracleEvent]] = defaultdict(list)
        self.bad: dict[Place, FakeRecord] = {}
        self._rng = rng
        for n in range(rng.randrange(30, 51)):
            self._produce(n)

    @property
    def count(self) -> int:
        """Records of all kinds."""
        return sum(map(len, self.records.values()))

    def _produce(self, n: int) -> None:
        rng = self._rng
        number, kind = rng.randrange(len(_USERS)), rng.randrange(3)
        user = _USERS[number]
        user_key = UserKey(_PARTITION_OF[self.partitions][number], user.encode())
        source = Source(TOPICS[kind], user_key.partition)
        log, drawn = self.records[source], rng.random()
        offset = len(log)
        if drawn < 0.08:
            log.append(self._bad(offset, user))
            self.bad[Place(*source, offset)] = log[-1]
            return
        again = [event for event in self.events[user_key] if event.type == kind and event.id] if drawn < 0.2 else []
        if again:
            first = rng.choice(again)
            event = OracleEvent(kind, offset, first.item, first.time_ms, first.id)
        else:
            behind = rng.randrange(12) if rng.random() < 0.2 else 0
            event_id = f"e{n}" if rng.random() < 0.5 else None
            event = OracleEvent(kind, offset, rng.choice(_ITEMS), _START_MS + 1000 * (n - behind) + n, event_id)
        self.events[user_key].append(event)
        log.append(record(offset, user, event.item, event.time_ms, event_id=event.id))

    def _bad(self, offset: int, user: str) -> FakeRecord:
        good = record(offset, user, "item-1", _START_MS)
        body = good.value or b""
        wrong = (
            good._replace(value=None),
            good._replace(value=body[: len(body) // 2]),
            good._replace(key=b"somebody-else"),
            record(offset, user, "", _START_MS),
            record(offset, user, "item-1", 2 * NOW_MS),
        )
        return self._rng.choice(wrong)


class Ledger:
    """The changelog, the lists, the dead letters and the committed offsets: what outlives every worker."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.changelog: list[list[tuple[bytes, bytes]]] = [[] for _ in range(stream.partitions)]
        self.committed: dict[Source, int] = dict.fromkeys(stream.records, 0)
        self.crashes: Counter[str] = Counter()
        """By the kind of the step before which it happened."""
        self.at = ""
        self.rebalances = 0
        self.duplicates = 0
        self.trace: list[list[tuple[Any, ...]]] = [[]]
        """The steps of each settlement."""
        self._latest: dict[UserKey, UserState] = {}
        self._last_list: dict[bytes, _List] = {}
        self._named: set[Place] = set()
        self._letters: set[Place] = set()
        self._lists = 0
        self._kind_of = {topic: kind for kind, topic in enumerate(TOPICS)}

    def note(self, *step: Any) -> None:
        """Add a step to the trace."""
        self.trace[-1].append(step)

    def totals(self) -> dict[str, int]:
        """Figures of the run."""
        return {
            "records": self.stream.count,
            "settlements": len(self.trace) - 1,
            "steps": sum(map(len, self.trace)),
            "crashes": self.crashes.total(),
            "rebalances": self.rebalances,
            "events_again": self.duplicates,
            "lists": self._lists,
        }

    # -- records in; each returns the offset
    def take_change(self, partition: int, key: bytes, value: bytes) -> int:
        """A record of the changelog; nobody's state goes back."""
        if key != POPULARITY_KEY:
            user = UserKey(partition, key)
            now, before = state.decode(value), self._latest.get(user)
            if before is not None:
                if any(map(lt, now.fences, before.fences)):
                    raise InvariantError(f"{user}: fences {now.fences} after {before.fences}")
                if now.events_count < before.events_count:
                    raise InvariantError(f"{user}: {now.events_count} events after {before.events_count}")
            self._latest[user] = now
        self.changelog[partition].append((key, value))
        return len(self.changelog[partition]) - 1

    def take_list(self, _: int, key: bytes, value: bytes) -> int:
        """A record of the recommendations."""
        content = _decode_list(value)
        if content.user_id.encode() != key:
            raise InvariantError(f"list of {content.user_id} under key {key!r}")
        self._last_list[key] = content
        self._named.update(content.causes)
        self._lists += 1
        return self._lists - 1

    def take_letter(self, key: bytes | None, value: bytes | None, headers: dict[str, bytes]) -> int:
        """A record of the dead letters, which has the bytes of a bad one."""
        offset = int(headers["dl_offset"])
        place = Place(headers["dl_topic"].decode(), int(headers["dl_partition"]), offset)
        original = self.stream.bad.get(place)
        require(original is not None and (original.key, original.value) == (key, value), f"dead letter of {place}")
        self._letters.add(place)
        return len(self._letters) - 1

    # -- invariants of every step
    def commit(self, source: Source, offset: int) -> None:
        """A commit, which is never ahead of what the topics can give back."""
        before = self.committed[source]
        require(offset >= before, f"{source}: commit of {offset} after {before}")
        for row in self.stream.records[source][before:offset]:
            place = Place(*source, row.offset)
            if place in self.stream.bad:
                if place not in self._letters:
                    raise InvariantError(f"{place} is committed, but there is no dead letter")
                continue
            user_state = self._latest.get(UserKey(source.partition, row.key or b""))
            fence = 0 if user_state is None else user_state.fences[self._kind_of[source.topic]]
            if fence <= row.offset:
                raise InvariantError(f"{place} is committed, but the changelog stands at {fence}")
            if place not in self._named:
                raise InvariantError(f"{place} is committed, but no list names it")
        self.committed[source] = offset

    def check_prefix(self, partition: int, stored: int | None, changes: Sequence[Any], offset: int) -> None:
        """A write by which the store stays a prefix of the changelog."""
        log, start = self.changelog[partition], 0 if stored is None else stored + 1
        require(offset < len(log), f"store of partition {partition} at {offset}, the changelog ends at {len(log)}")
        same = list(changes) == log[start : offset + 1]
        require(same, f"store of partition {partition}: {start}..{offset} is not what the changelog has there")

    # -- invariants of the end
    def all_committed(self) -> bool:
        """Whether the stream was read to its end."""
        return all(offset == len(self.stream.records[source]) for source, offset in self.committed.items())

    def check_store(self, partition: int, store: Any) -> None:
        """An open store holds exactly what its changelog does."""
        latest = dict(self.changelog[partition])
        last = len(self.changelog[partition]) - 1
        require(store.offset(partition) == (last if latest else None), f"store of partition {partition} is behind")
        require(store.load(partition, list(latest)) == list(latest.values()), f"store of partition {partition}")

    def judge(self) -> None:
        """Every user's state is that of the oracle, every event is in a list, every bad record has its letter."""
        require(self._latest.keys() == self.stream.events.keys(), "users lost, or users that nobody is")
        for user, events in self.stream.events.items():
            self._judge_state(user, events)
            named = [Place(TOPICS[event.type], user.partition, event.offset) for event in events]
            require(self._named.issuperset(named), f"{user}: no list names some of {named}")
            causes = set(self._last_list[user.key].causes)
            ends = {place.topic: place for place in named}
            require(bool(causes & set(ends.values())), f"{user}: the last list is caused by {causes}, not by the end")
        require(self._letters == self.stream.bad.keys(), "bad records without a dead letter")
        self._judge_lists()
        self._judge_popularity()

    def _judge_state(self, user: UserKey, events: list[OracleEvent]) -> None:
        oracle, found = OracleUser(), self._latest[user]
        oracle.apply(events, ENCODER.version)
        require(found.events_count == oracle.folded, f"{user}: {found.events_count} events, not {oracle.folded}")
        require(found.late_count == oracle.late, f"{user}: {found.late_count} late events")
        fences = [oracle.fences.get(kind, 0) for kind in range(4)]
        require(found.fences == fences, f"{user}: fences {found.fences}, not {fences}")
        history = list(zip(found.history_items, found.history_types, found.history_times_ms, strict=True))
        require(history == [event.step for event in oracle.history], f"{user}: history {history}")

    def _judge_lists(self) -> None:
        """The last list of a user is that of the final state, whose numbers are those of a pass over its history."""
        known = {user: found for user, found in self._latest.items() if found.known_count}
        vectors = np.stack([found.vector for found in known.values() if found.vector is not None])
        _, rows = ENCODER.top_k(vectors, 2)
        for user, of_user in zip(known, rows.tolist(), strict=True):
            listed = [item.item_id for item in self._last_list[user.key].items]
            require(listed == [ENCODER.item_at(row) for row in of_user], f"{user}: the last list is {listed}")
        user, found = min(known.items())
        history = list(zip(found.history_items, found.history_types, found.history_times_ms, strict=True))
        hidden, _ = full_pass(ENCODER, history)
        require(found.hidden is not None and np.allclose(found.hidden, hidden, atol=1e-4), f"{user}: hidden state")

    def _judge_popularity(self) -> None:
        """A snapshot counts no event twice; it may lack some, since it is taken now and then."""
        for partition, log in enumerate(self.changelog):
            value = dict(log).get(POPULARITY_KEY)
            counted = 0 if value is None else Popularity.restore(value).events
            total = sum(found.events_count for user, found in self._latest.items() if user.partition == partition)
            require(counted <= total, f"popularity of partition {partition} counts {counted} of {total} events")

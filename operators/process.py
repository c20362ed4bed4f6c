"""One batch through the pure core: records in, effects out. Live and replay run this same code."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from operators import ranking, state
from operators.candidates.popularity import Popularity
from operators.columns import Columns, decode_columns
from operators.events import Rejected
from operators.fold import Folded, fold_all
from operators.interest import Encoder, refresh
from operators.ranking import Cause, Policy, RecommendationList
from operators.state import UserState

__all__ = [
    "NO_EFFECTS",
    "Batch",
    "Chunk",
    "Counts",
    "DeadLetter",
    "Effects",
    "Publish",
    "PutState",
    "Record",
    "UserKey",
    "decode_chunks",
    "process_batch",
]


class Record(Protocol):
    """A consumed record, as every Kafka client has it."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Chunk(NamedTuple):
    """Consecutive records of one partition of one event topic."""

    topic: str
    event_type: int
    partition: int
    records: Sequence[Any]
    """Of ``Record``; clients' classes do not declare it."""


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


class PutState(NamedTuple):
    """A user's new state, encoded."""

    user: UserKey
    value: bytes


class Publish(NamedTuple):
    """A list to publish, encoded."""

    user: UserKey
    value: bytes


class Counts(NamedTuple):
    """What became of a batch's records; the first five add up to ``records``."""

    records: int = 0
    folded: int = 0
    duplicates: int = 0
    late: int = 0
    rejected: int = 0
    unknown_items: int = 0
    popularity_lists: int = 0


class Batch(NamedTuple):
    """Checked records, grouped by user; a user's events stand together, in event-time order."""

    users: list[UserKey]
    """In order of first arrival."""
    events: Columns
    bounds: list[int]
    """The events of user n are those from ``bounds[n]`` up to ``bounds[n + 1]``."""
    dead_letters: list[DeadLetter]
    records: int


class Effects(NamedTuple):
    """What a batch asks of the world: plain data."""

    puts: list[PutState]
    lists: list[Publish]
    dead_letters: list[DeadLetter]
    counts: Counts


NO_EFFECTS: Final = Effects([], [], [], Counts())


def decode_chunks(chunks: Iterable[Chunk], now_ms: int) -> Batch:
    """Check every record of the chunks and group the events by user."""
    users: list[UserKey] = []
    places: dict[int, _Places] = {}
    parts: list[Columns] = []
    numbers: list[int] = []
    dead_letters: list[DeadLetter] = []
    records = 0
    for chunk in chunks:
        records += len(chunk.records)
        columns, rejected = decode_columns(chunk.records, chunk.event_type, now_ms)
        parts.append(columns)
        if chunk.partition not in places:
            places[chunk.partition] = _Places(chunk.partition, users)
        place_of = places[chunk.partition]
        numbers += [place_of[key] for key in columns.keys]
        dead_letters += [DeadLetter(chunk.topic, chunk.partition, chunk.records[n], reason) for n, reason in rejected]
    events = Columns.joined(parts)
    user_of = np.array(numbers, np.int64)
    order = np.lexsort((events.offsets, events.types, events.times_ms, user_of))
    bounds = np.searchsorted(user_of[order], np.arange(len(users) + 1)).tolist()
    return Batch(users, events.in_order(order), bounds, dead_letters, records)


class _Places(dict[bytes, int]):
    """Key of a user of one partition -> place in ``users``, where a new user is added."""

    def __init__(self, partition: int, users: list[UserKey]) -> None:
        super().__init__()
        self._partition = partition
        self._users = users

    def __missing__(self, key: bytes) -> int:
        place = self[key] = len(self._users)
        self._users.append(UserKey(self._partition, key))
        return place


def process_batch(
    batch: Batch,
    states: Mapping[UserKey, UserState],
    popularity: Mapping[int, Popularity],
    encoder: Encoder,
    policy: Policy,
    *,
    topics: Sequence[str],
    withdrawn: Set[str],
    now_ms: int,
) -> Effects:
    """Fold the batch, refresh the interest vectors, rank, and say what is to be written and published.

    Every user with an event in the batch gets one state and one list, that names all of the user's events
    in the batch. A user whose events are all duplicates gets both again: the first may not have been
    delivered when the worker died.

    Args:
        states: of every user in the batch, fresh ones for new users; changed in place.
        popularity: by partition; changed in place.
        topics: name of the event topic of each event type.
        withdrawn: item ids that no list may hold.
        now_ms: becomes ``generated_at``.
    """
    users = batch.users
    of_users = [states[user] for user in users]
    folded = fold_all(of_users, batch.events, batch.bounds, encoder)
    _refresh(of_users, folded, encoder)
    for user, outcome in zip(users, folded, strict=True):
        popularity[user.partition].extend(outcome.fresh)
    ranked = ranking.rank(of_users, [popularity[user.partition] for user in users], encoder, policy, withdrawn)
    lists = _encode_lists(batch, ranked, encoder.version, policy, topics, now_ms)
    puts = [PutState(user, state.encode(user_state)) for user, user_state in zip(users, of_users, strict=True)]
    return Effects(puts, lists, batch.dead_letters, _count(batch, folded, ranked))


def _refresh(states: Sequence[UserState], folded: Sequence[Folded], encoder: Encoder) -> None:
    owed = [(user_state, outcome.job) for user_state, outcome in zip(states, folded, strict=True) if outcome.job]
    if not owed:
        return
    hidden, vectors = refresh(encoder, [job for _, job in owed])
    for n, (user_state, _) in enumerate(owed):
        # Copies: a view would keep the whole batch's arrays alive as long as any of its users is cached.
        user_state.hidden, user_state.vector = hidden[n].copy(), vectors[n].copy()


def _encode_lists(
    batch: Batch,
    ranked: Sequence[list[ranking.RankedItem]],
    model_version: str,
    policy: Policy,
    topics: Sequence[str],
    now_ms: int,
) -> list[Publish]:
    events, bounds = batch.events, batch.bounds
    types: list[int] = events.types.tolist()
    topic_of = [topics[event_type] for event_type in types]
    offsets: list[int] = events.offsets.tolist()
    times_ms: list[int] = events.times_ms.tolist()
    lists: list[Publish] = []
    for n, (user, items) in enumerate(zip(batch.users, ranked, strict=True)):
        places = range(bounds[n], bounds[n + 1])
        last = places[-1]
        value = ranking.encode_list(
            RecommendationList(
                request_id=f"{topic_of[last]}-{user.partition}-{offsets[last]}",
                user_id=user.key.decode(),
                generated_at=now_ms,
                event_time=times_ms[last],
                caused_by=[Cause(topic_of[at], user.partition, offsets[at]) for at in places],
                model_version=model_version,
                variant=policy.variant,
                degraded=False,
                items=items,
            )
        )
        lists.append(Publish(user, value))
    return lists


def _count(batch: Batch, folded: Sequence[Folded], ranked: Sequence[Sequence[ranking.RankedItem]]) -> Counts:
    return Counts(
        records=batch.records,
        folded=sum(len(outcome.fresh) for outcome in folded),
        duplicates=sum(outcome.duplicates for outcome in folded),
        late=sum(outcome.late for outcome in folded),
        rejected=len(batch.dead_letters),
        unknown_items=sum(outcome.unknown for outcome in folded),
        popularity_lists=sum(bool(items) and items[0].source == "popularity" for items in ranked),
    )

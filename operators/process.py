"""One batch through the pure core: records in, effects out. Live and replay run this same code."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Final, NamedTuple, Protocol

from operators import ranking, state
from operators.candidates.popularity import Popularity
from operators.events import Event, Rejected, decode
from operators.fold import Folded, fold
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
    """Checked records, grouped by user in arrival order."""

    users: dict[UserKey, list[Event]]
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
    by_partition: dict[int, dict[bytes, list[Event]]] = {}
    dead_letters: list[DeadLetter] = []
    records = 0
    for chunk in chunks:
        records += len(chunk.records)
        event_type, partition = chunk.event_type, chunk.partition
        users = by_partition.setdefault(partition, {})
        for record in chunk.records:
            event = decode(record.value, record.key, record.headers, event_type, record.offset, now_ms)
            if isinstance(event, Rejected):
                dead_letters.append(DeadLetter(chunk.topic, partition, record, event))
            elif event.key in users:
                users[event.key].append(event)
            else:
                users[event.key] = [event]
    grouped = {
        UserKey(partition, key): events for partition, users in by_partition.items() for key, events in users.items()
    }
    return Batch(grouped, dead_letters, records)


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
    folded = {user: fold(states[user], events, encoder) for user, events in batch.users.items()}
    _refresh(folded, states, encoder)
    _move_popularity(folded, popularity)
    users = list(batch.users)
    ranked = ranking.rank(
        [states[user] for user in users],
        [popularity[user.partition] for user in users],
        encoder,
        policy,
        withdrawn,
    )
    lists = [
        Publish(user, _encode_list(user, batch.users[user], items, encoder.version, policy, topics, now_ms))
        for user, items in zip(users, ranked, strict=True)
    ]
    puts = [PutState(user, state.encode(states[user])) for user in users]
    return Effects(puts, lists, batch.dead_letters, _count(batch, folded, ranked))


def _refresh(folded: Mapping[UserKey, Folded], states: Mapping[UserKey, UserState], encoder: Encoder) -> None:
    owed = [(states[user], outcome.job) for user, outcome in folded.items() if outcome.job is not None]
    if not owed:
        return
    hidden, vectors = refresh(encoder, [job for _, job in owed])
    for n, (user_state, _) in enumerate(owed):
        # Copies: a view would keep the whole batch's arrays alive as long as any of its users is cached.
        user_state.hidden, user_state.vector = hidden[n].copy(), vectors[n].copy()


def _move_popularity(folded: Mapping[UserKey, Folded], popularity: Mapping[int, Popularity]) -> None:
    for user, outcome in folded.items():
        popularity[user.partition].extend([(event.item_id, event.timestamp_ms) for event in outcome.fresh])


def _encode_list(
    user: UserKey,
    events: Sequence[Event],
    items: list[ranking.RankedItem],
    model_version: str,
    policy: Policy,
    topics: Sequence[str],
    now_ms: int,
) -> bytes:
    last = events[-1]
    return ranking.encode_list(
        RecommendationList(
            request_id=f"{topics[last.type]}-{user.partition}-{last.offset}",
            user_id=user.key.decode(),
            generated_at=now_ms,
            event_time=max(event.timestamp_ms for event in events),
            caused_by=[Cause(topics[event.type], user.partition, event.offset) for event in events],
            model_version=model_version,
            variant=policy.variant,
            degraded=False,
            items=items,
        )
    )


def _count(batch: Batch, folded: Mapping[UserKey, Folded], ranked: Sequence[Sequence[ranking.RankedItem]]) -> Counts:
    outcomes = folded.values()
    return Counts(
        records=batch.records,
        folded=sum(len(outcome.fresh) for outcome in outcomes),
        duplicates=sum(outcome.duplicates for outcome in outcomes),
        late=sum(outcome.late for outcome in outcomes),
        rejected=len(batch.dead_letters),
        unknown_items=sum(outcome.unknown for outcome in outcomes),
        popularity_lists=sum(bool(items) and items[0].source == "popularity" for items in ranked),
    )

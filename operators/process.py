"""One batch through the pure core: what becomes of states, and what is asked of the world; live and replay alike."""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Final, NamedTuple

from operators import ranking, state
from operators.batches import Batch, DeadLetter, UserKey
from operators.candidates.live_covisitation import LiveCoVisitation
from operators.candidates.popularity import Popularity
from operators.companions import Visits
from operators.erasure import ERASURE, ErasureRequest, Receipt, digest_of, encode_receipt, husk_key
from operators.fold import Folded, fold, fold_all, fresh_events
from operators.fresh import fresh_by_partition, learn_popularity, popular_items
from operators.interest import Encoder, EncoderError, refresh
from operators.ranking import NO_CATEGORIES, Cause, Policy, RecommendationList
from operators.state import UserState

__all__ = [
    "NO_EFFECTS",
    "Counts",
    "Effects",
    "Erase",
    "Publish",
    "PutState",
    "process_batch",
]


class PutState(NamedTuple):
    """A user's new state, encoded."""

    user: UserKey
    value: bytes


class Publish(NamedTuple):
    """A list to publish, encoded."""

    user: UserKey
    value: bytes


class Erase(NamedTuple):
    """An erasure that was carried out, and the receipt that is published when nothing else is left to do.

    A user with newer events has a state and a list that were made of those, among the effects of the batch.
    """

    user: UserKey
    husk: tuple[bytes, bytes] | None
    """Key and value of what stays of a user of whom nothing else does: state and list go. None for another user."""
    next_offset: int
    """Fence of the erase topic behind the request."""
    receipt: tuple[bytes, bytes]
    """Key and value."""


class Counts(NamedTuple):
    """What became of a batch's records; those from ``folded`` to ``erasures`` add up to ``records``."""

    records: int = 0
    folded: int = 0
    duplicates: int = 0
    late: int = 0
    rejected: int = 0
    erased: int = 0
    erasures: int = 0
    unknown_items: int = 0
    popularity_lists: int = 0
    degraded_lists: int = 0
    yielded_lists: int = 0
    """Of those, the ones that the encoder had to yield; the others it failed."""


class Effects(NamedTuple):
    """What a batch asks of the world: plain data."""

    puts: list[PutState]
    lists: list[Publish]
    dead_letters: list[DeadLetter]
    counts: Counts
    erasures: Sequence[Erase] = ()


NO_EFFECTS: Final = Effects([], [], [], Counts())


def _ignore(_stage: str) -> None: ...


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
    categories: Mapping[str, str] = NO_CATEGORIES,
    covisitation: Mapping[int, LiveCoVisitation] | None = None,
    yields: bool = False,
    mark: Callable[[str], object] = _ignore,
) -> Effects:
    """Fold the batch, refresh the interest vectors, rank, and say what is to be written and published.

    Every user with an event in the batch gets one state and one list, that names all of the user's events
    in the batch. A user whose events are all duplicates gets both again: the first may not have been
    delivered when the worker died. Erasures come first: what they leave of a user is built anew by the newer
    events of the batch, and a user of whom nothing is left gets neither.

    Where the encoder raises ``EncoderError`` the lists are made without it and ``degraded``; the users whose vectors
    it owes are encoded anew, from their histories, with their next events.

    Args:
        states: of every user that the batch touches, fresh ones for new users; changed in place.
        popularity: by partition; changed in place.
        topics: name of the event topic of each event type, and of the erase topic.
        withdrawn: item ids that no list may hold.
        now_ms: becomes ``generated_at``.
        categories: of items, for the caps of the policy.
        covisitation: by partition, where the policy has weights for it; changed in place.
        yields: whether the lists are to be made without the encoder, ``degraded``, because there is no time for more.
            The vectors are refreshed all the same: one that is owed would cost a pass over its history later.
        mark: told the name of each stage when it ends: fold, encode, rank, and lists for the rest.
    """
    for user, request in batch.erasures:
        if request.offset >= states[user].fences[ERASURE]:  # one that is read again erases nothing twice
            states[user].erase(request.until_ms, request.offset + 1)
    # Whom an erasure leaves newer events is built anew from those, also where the batch brings no more of them.
    left = [user for user in batch.touched[len(batch.users) :] if states[user].types]
    users = [*batch.users, *left]
    of_users = [states[user] for user in users]
    visits = None
    if covisitation is not None:
        visits = Visits(covisitation, of_users, drop_seen=policy.seen_items == "drop")
    folded = fold_all(of_users[: len(batch.users)], batch.events, batch.bounds, encoder)
    folded += [fold(states[user], [], encoder) for user in left]
    new_events, lengths = fresh_events(folded, batch.events, batch.bounds)
    fresh = fresh_by_partition(users, new_events, lengths)
    learn_popularity(popularity, fresh)
    popular = popular_items(popularity, fresh)
    companions = visits.learned(fresh) if visits is not None else None
    mark("fold")
    ranked: list[list[ranking.RankedItem]] | None = None
    fails = False
    try:
        _refresh(of_users, folded, encoder)
        mark("encode")
        if not yields:
            ranked = ranking.rank(of_users, popular, encoder, policy, withdrawn, categories, companions)
    except EncoderError:
        fails = True
    degraded = ranked is None
    if ranked is None:
        ranked = ranking.rank_without_encoder(of_users, popular, policy, withdrawn, companions)
    mark("rank")
    origins = [*_origins(batch, topics), *_origins_left(batch, left, states, topics)]
    lists = _encode_lists(users, ranked, origins, encoder.version, policy, now_ms, degraded=degraded)
    puts = [PutState(user, state.encode(user_state)) for user, user_state in zip(users, of_users, strict=True)]
    gone = {user for user, user_state in zip(users, of_users, strict=True) if not user_state.types}
    if gone:
        lists = [ranked_list for ranked_list in lists if ranked_list.user not in gone]
        puts = [put for put in puts if put.user not in gone]
    erasures = tuple(
        _erase_effect(user, request, states[user], topics[ERASURE], now_ms) for user, request in batch.erasures
    )
    counts = _count(batch, new_events.size, folded, ranked)
    counts = counts._replace(
        degraded_lists=len(lists) if degraded else 0, yielded_lists=len(lists) if yields and not fails else 0
    )
    mark("lists")
    return Effects(puts, lists, batch.dead_letters, counts, erasures)


def _erase_effect(user: UserKey, request: ErasureRequest, user_state: UserState, topic: str, now_ms: int) -> Erase:
    request_id = request.request_id or f"{topic}-{user.partition}-{request.offset}"
    receipt = Receipt(
        request_id=request_id,
        digest=digest_of(user.key).hex(),
        erased_until=user_state.erased_until_ms,
        erased_at=now_ms,
        partition=user.partition,
        offset=request.offset,
    )
    return Erase(
        user,
        husk=None if user_state.types else (husk_key(user.key), state.encode(user_state)),
        next_offset=request.offset + 1,
        receipt=(request_id.encode(), encode_receipt(receipt)),
    )


def _refresh(states: Sequence[UserState], folded: Sequence[Folded], encoder: Encoder) -> None:
    """Give the states their new vectors.

    Raises:
        EncoderError: of the encoder, once the states say that they lack them.
    """
    owed = [(user_state, outcome.job) for user_state, outcome in zip(states, folded, strict=True) if outcome.job]
    if not owed:
        return
    try:
        hidden, vectors = refresh(encoder, [job for _, job in owed])
    except EncoderError:
        for user_state, _ in owed:
            user_state.forget_encoding()
        raise
    for n, (user_state, _) in enumerate(owed):
        # Copies: a view would keep the whole batch's arrays alive as long as any of its users is cached.
        user_state.hidden, user_state.vector = hidden[n].copy(), vectors[n].copy()


class _Origin(NamedTuple):
    """What a list comes of."""

    request_id: str
    event_time_ms: int
    causes: list[Cause]


def _origins(batch: Batch, topics: Sequence[str]) -> list[_Origin]:
    """Of each user with events: all of them."""
    events, bounds = batch.events, batch.bounds
    types: list[int] = events.types.tolist()
    topic_of = [topics[event_type] for event_type in types]
    offsets: list[int] = events.offsets.tolist()
    times_ms: list[int] = events.times_ms.tolist()
    origins: list[_Origin] = []
    for n, user in enumerate(batch.users):
        places = range(bounds[n], bounds[n + 1])
        last = places[-1]
        causes = [Cause(topic_of[at], user.partition, offsets[at]) for at in places]
        origins.append(_Origin(f"{topic_of[last]}-{user.partition}-{offsets[last]}", times_ms[last], causes))
    return origins


def _origins_left(
    batch: Batch, left: Sequence[UserKey], states: Mapping[UserKey, UserState], topics: Sequence[str]
) -> list[_Origin]:
    """Of each user without events: the erasures."""
    offsets = {user: [request.offset for erased, request in batch.erasures if erased == user] for user in left}
    return [
        _Origin(
            f"{topics[ERASURE]}-{user.partition}-{offsets[user][-1]}",
            states[user].times_ms[-1],
            [Cause(topics[ERASURE], user.partition, offset) for offset in offsets[user]],
        )
        for user in left
    ]


def _encode_lists(
    users: Sequence[UserKey],
    ranked: Sequence[list[ranking.RankedItem]],
    origins: Sequence[_Origin],
    model_version: str,
    policy: Policy,
    now_ms: int,
    *,
    degraded: bool,
) -> list[Publish]:
    lists: list[Publish] = []
    for user, items, origin in zip(users, ranked, origins, strict=True):
        value = ranking.encode_list(
            RecommendationList(
                request_id=origin.request_id,
                user_id=user.key.decode(),
                generated_at=now_ms,
                event_time=origin.event_time_ms,
                caused_by=origin.causes,
                model_version=model_version,
                variant=policy.variant,
                degraded=degraded,
                items=items,
            )
        )
        lists.append(Publish(user, value))
    return lists


def _count(
    batch: Batch, fresh: int, folded: Sequence[Folded], ranked: Sequence[Sequence[ranking.RankedItem]]
) -> Counts:
    return Counts(
        records=batch.records,
        folded=fresh,
        duplicates=sum(outcome.duplicates for outcome in folded),
        late=sum(outcome.late for outcome in folded),
        rejected=len(batch.dead_letters),
        erased=sum(outcome.erased for outcome in folded),
        erasures=len(batch.erasures),
        unknown_items=sum(outcome.unknown for outcome in folded),
        popularity_lists=sum(bool(items) and items[0].source == "popularity" for items in ranked),
    )

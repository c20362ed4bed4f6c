"""One batch through the pure core: what becomes of states, and what is asked of the world; live and replay alike."""

from collections.abc import Callable, Mapping, Sequence, Set

from operators import state
from operators.batches import Batch, UserKey
from operators.candidates.live_covisitation import LiveCoVisitation
from operators.candidates.popularity import Popularity
from operators.companions import Visits
from operators.effects import Counts, Effects, Erase, PutState
from operators.erasure import ERASURE, ErasureRequest, Receipt, digest_of, encode_receipt, husk_key
from operators.fold import FoldedBatch, fold_all, fresh_events
from operators.fresh import fresh_by_partition, learn_popularity, popular_items
from operators.interest import Encoder, EncoderError
from operators.lists import Origin, Updated, make_lists
from operators.ranking import NO_CATEGORIES, Cause, Policy
from operators.state import UserState
from operators.tastes import Tastes

__all__ = ["process_batch", "update_states"]


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
        mark: told the name of each stage when it ends: fold, encode, states, rank, lists.
    """
    updated = update_states(
        batch,
        states,
        popularity,
        encoder,
        topics=topics,
        now_ms=now_ms,
        covisitation=covisitation,
        drops_seen=policy.seen_items == "drop",
        mark=mark,
    )
    mark("states")
    return make_lists(
        updated,
        encoder,
        policy,
        topics=topics,
        withdrawn=withdrawn,
        now_ms=now_ms,
        categories=categories,
        yields=yields,
        mark=mark,
    )


def update_states(
    batch: Batch,
    states: Mapping[UserKey, UserState],
    popularity: Mapping[int, Popularity],
    encoder: Encoder,
    *,
    topics: Sequence[str],
    now_ms: int,
    covisitation: Mapping[int, LiveCoVisitation] | None = None,
    drops_seen: bool = False,
    mark: Callable[[str], object] = _ignore,
) -> Updated:
    """The first half of ``process_batch``: all that reads or changes what the next batch changes too.

    ``make_lists`` of the result may go on while the next batch is updated.

    Args:
        drops_seen: no list holds what its user has taken.
        mark: told of the stages fold and encode.
    """
    for user, request in batch.erasures:
        if request.offset >= states[user].fences[ERASURE]:  # one that is read again erases nothing twice
            states[user].erase(request.until_ms, request.offset + 1)
    # Whom an erasure leaves newer events is built anew from those, also where the batch brings no more of them.
    left = [user for user in batch.touched[len(batch.users) :] if states[user].types]
    users = [*batch.users, *left]
    of_users = [states[user] for user in users]
    visits = Visits(covisitation, of_users, drop_seen=drops_seen) if covisitation is not None else None
    bounds = batch.bounds + [batch.events.size] * len(left)
    folded = fold_all(of_users, batch.events, bounds, encoder)
    new_events, lengths = fresh_events(folded, batch.events, bounds)
    fresh = fresh_by_partition(users, new_events, lengths)
    learn_popularity(popularity, fresh)
    popular = popular_items(popularity, fresh)
    companions = visits.learned(fresh) if visits is not None else None
    mark("fold")
    is_encoded = _refresh(of_users, folded, encoder)
    mark("encode")
    puts = [PutState(user, state.encode(user_state)) for user, user_state in zip(users, of_users, strict=True)]
    gone = frozenset(user for user, user_state in zip(users, of_users, strict=True) if not user_state.types)
    return Updated(
        batch=batch,
        users=users,
        origins_left=_origins_left(batch, left, states, topics),
        tastes=Tastes.of(of_users, encoder),
        popular=popular,
        companions=companions,
        is_encoded=is_encoded,
        puts=[put for put in puts if put.user not in gone] if gone else puts,
        gone=gone,
        erasures=tuple(
            _erase_effect(user, request, states[user], topics[ERASURE], now_ms) for user, request in batch.erasures
        ),
        counts=_count(batch, new_events.size, folded),
    )


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


def _refresh(states: Sequence[UserState], folded: FoldedBatch, encoder: Encoder) -> bool:
    """Give the states their new vectors; False where the encoder fails, and the states say that they lack them."""
    owed = [states[n] for n in folded.owed]
    if not owed:
        return True
    try:
        hidden, vectors = encoder.advance(folded.steps)
    except EncoderError:
        for user_state in owed:
            user_state.forget_encoding()
        return False
    for n, user_state in enumerate(owed):
        # Copies: a view would keep the whole batch's arrays alive as long as any of its users is cached.
        user_state.hidden, user_state.vector = hidden[n].copy(), vectors[n].copy()
    if folded.steps.kept is not None:
        for user_state, kept in zip(owed, folded.steps.kept.tolist(), strict=True):
            user_state.kept = kept
    return True


def _origins_left(
    batch: Batch, left: Sequence[UserKey], states: Mapping[UserKey, UserState], topics: Sequence[str]
) -> list[Origin]:
    """Of each user without events: the erasures."""
    offsets = {user: [request.offset for erased, request in batch.erasures if erased == user] for user in left}
    return [
        Origin(
            f"{topics[ERASURE]}-{user.partition}-{offsets[user][-1]}",
            states[user].times_ms[-1],
            [Cause(topics[ERASURE], user.partition, offset) for offset in offsets[user]],
        )
        for user in left
    ]


def _count(batch: Batch, fresh: int, folded: FoldedBatch) -> Counts:
    return Counts(
        records=batch.records,
        folded=fresh,
        duplicates=folded.duplicates,
        late=folded.late,
        rejected=len(batch.dead_letters),
        erased=folded.erased,
        erasures=len(batch.erasures),
        unknown_items=folded.unknown,
    )

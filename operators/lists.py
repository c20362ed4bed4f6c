"""The lists of a batch whose states are written: ranked, explained by their causes, and as bytes."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Final, NamedTuple

import msgspec
import numpy as np

from operators import limits
from operators.batches import Batch, UserKey
from operators.candidates.popularity import PopularItems
from operators.companions import BatchCompanions
from operators.effects import Counts, Effects, Erase, Publish, PutState
from operators.interest import Encoder, EncoderError
from operators.kernels import caused_by
from operators.ranking import (
    NO_CATEGORIES,
    Cause,
    Policy,
    RankedItem,
    RecommendationList,
    encode_list,
    rank,
    rank_without_encoder,
)
from operators.tastes import Tastes

__all__ = ["Origin", "Updated", "causes_max", "make_lists"]

_NUMBERS_BYTES_MAX: Final = 35
"""Of a cause, what follows its opening: a partition, an offset, and what is around them."""


class Origin(NamedTuple):
    """What a list comes of."""

    request_id: str
    event_time_ms: int
    causes: list[Cause] | msgspec.Raw


class Updated(NamedTuple):
    """A batch whose states are updated, and all that its lists are made of. No later batch changes any of it."""

    batch: Batch
    users: list[UserKey]
    """Of the batch, then those beyond whom an erasure leaves something."""
    origins_left: list[Origin]
    """Of the lists of the latter."""
    tastes: Tastes
    """Of the users."""
    popular: list[PopularItems]
    companions: BatchCompanions | None
    is_encoded: bool
    """False where the encoder failed: it owes these users their vectors."""
    puts: list[PutState]
    gone: frozenset[UserKey]
    """Users of whom nothing is left: no state, no list."""
    erasures: tuple[Erase, ...]
    counts: Counts
    """But for those of the lists."""


def make_lists(
    updated: Updated,
    encoder: Encoder,
    policy: Policy,
    *,
    topics: Sequence[str],
    withdrawn: Set[str],
    now_ms: int,
    categories: Mapping[str, str] = NO_CATEGORIES,
    yields: bool = False,
    mark: Callable[[str], object],
) -> Effects:
    """One list per user, and with them all that the batch asks of the world. The arguments are ``process_batch``'s."""
    ranked: list[list[RankedItem]] | None = None
    fails = not updated.is_encoded
    if not fails and not yields:
        try:
            ranked = rank(updated.tastes, updated.popular, encoder, policy, withdrawn, categories, updated.companions)
        except EncoderError:
            fails = True
    degraded = ranked is None
    if ranked is None:
        ranked = rank_without_encoder(updated.tastes, updated.popular, policy, withdrawn, updated.companions)
    mark("rank")
    origins = [*_origins(updated.batch, topics), *updated.origins_left]
    lists = _encode_lists(updated.users, ranked, origins, encoder.version, policy, now_ms, degraded=degraded)
    if updated.gone:
        lists = [ranked_list for ranked_list in lists if ranked_list.user not in updated.gone]
    counts = updated.counts._replace(
        popularity_lists=[items[0].source for items in ranked if items].count("popularity"),
        degraded_lists=len(lists) if degraded else 0,
        yielded_lists=len(lists) if yields and not fails else 0,
    )
    mark("lists")
    return Effects(updated.puts, lists, updated.batch.dead_letters, counts, updated.erasures)


def causes_max(topics: Sequence[str]) -> int:
    """How many events of these topics a list can name: its record has to fit the topic."""
    return limits.list_causes_bytes_max // (max(map(len, _openings(topics))) + _NUMBERS_BYTES_MAX)


def _openings(topics: Sequence[str]) -> list[bytes]:
    """Of an event as a cause, up to the number of its partition."""
    return [b'{"topic":%b,"partition":' % msgspec.json.encode(topic) for topic in topics]


def _origins(batch: Batch, topics: Sequence[str]) -> list[Origin]:
    """Of each user with events: all of them."""
    events, bounds = batch.events, batch.bounds
    partitions = np.array([user.partition for user in batch.users], np.int64)
    causes = caused_by(_openings(topics), partitions, events.types, events.offsets, np.array(bounds, np.int64))
    last = np.array(bounds[1:], np.int64) - 1
    newest: Iterable[tuple[int, int, int]] = zip(
        *(column[last].tolist() for column in (events.types, events.offsets, events.times_ms)), strict=True
    )
    return [
        Origin(f"{topics[event_type]}-{user.partition}-{offset}", time_ms, msgspec.Raw(of_user))
        for user, (event_type, offset, time_ms), of_user in zip(batch.users, newest, causes, strict=True)
    ]


def _encode_lists(
    users: Sequence[UserKey],
    ranked: Sequence[list[RankedItem]],
    origins: Sequence[Origin],
    model_version: str,
    policy: Policy,
    now_ms: int,
    *,
    degraded: bool,
) -> list[Publish]:
    lists: list[Publish] = []
    for user, items, origin in zip(users, ranked, origins, strict=True):
        value = encode_list(
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

"""From interest vectors to ranked lists: fuse the sources, filter, explain, and encode."""

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import starmap
from types import MappingProxyType
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.candidates.popularity import PopularItems
from operators.companions import BatchCompanions, Followed
from operators.defaults import REPEAT_WEIGHT
from operators.explaining import because
from operators.fusion import SOURCES, CoVisitationWeights, Fused, repeats, with_bonuses
from operators.interest import OUT_OF_VOCABULARY, Encoder
from operators.reranking import NO_CATEGORY, reshaped
from operators.state import ids_of
from operators.tastes import Tastes

__all__ = [
    "NO_CATEGORIES",
    "Cause",
    "Policy",
    "RankedItem",
    "RecommendationList",
    "Source",
    "encode_list",
    "rank",
    "rank_without_encoder",
]

Source = Literal["encoder", "history", "co-visitation", "popularity"]

_SCORE_DIGITS: Final = 4
_SOURCES: Final = np.array(SOURCES, object)


class Cause(msgspec.Struct, gc=False):
    """An event that caused a list."""

    topic: str
    partition: int
    offset: int


class RankedItem(msgspec.Struct, gc=False):
    """One place of a list; ``score`` compares items within one list only, and none to one of popularity."""

    item_id: str
    rank: int
    score: float
    source: Source
    """What brought it there: the encoder's score alone, or what the user's own counts or co-visitation added to it."""
    because: list[str]
    """Items of the user's recent history whose events moved this one up most, by `operators.explaining.because`."""


class RecommendationList(msgspec.Struct):
    """The value of a record on the ``recommendations`` topic."""

    request_id: str
    user_id: str
    generated_at: int
    event_time: int
    caused_by: list[Cause] | msgspec.Raw
    """Or their JSON."""
    model_version: str
    variant: str
    degraded: bool
    items: list[RankedItem]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What a list may hold."""

    list_items: int = 10
    seen_items: Literal["keep", "drop"] = "keep"
    explain: bool = True
    variant: str = "default"
    repeat_weight: float = REPEAT_WEIGHT
    """What the user took before, where it is kept: this times log(1 + its count in the history) on its score."""
    diversity: float = 0.0
    """0: the best scores; towards 1: the more unlike each other (maximal marginal relevance)."""
    category_items_max: int = 0
    """Items of one category in a list, by the catalogue; 0: any number."""
    covisitation: CoVisitationWeights | None = None
    """None: co-visitation is neither kept nor asked."""


NO_CATEGORIES: Final[Mapping[str, str]] = MappingProxyType({})

encode_list = msgspec.json.Encoder().encode


def rank(
    tastes: Tastes,
    popular: Sequence[PopularItems],
    encoder: Encoder,
    policy: Policy,
    withdrawn: Container[str],
    categories: Mapping[str, str] = NO_CATEGORIES,
    companions: BatchCompanions | None = None,
) -> list[list[RankedItem]]:
    """One list per user: the encoder's exact top-k where it knows the user, co-visitation and popularity for the rest.

    The encoder's score is fused with the user's own counts and co-visitation, and the list shaped, as the policy says.

    A user whose history holds no item of the vocabulary is unknown to the encoder; one whom the filters leave none of
    its items is treated alike. A list that they leave short is filled with popular items.

    Args:
        tastes: of the users, with the rows of this encoder.
        popular: of each user's partition, as of its last event.
        withdrawn: item ids that no list may hold; the encoder was told of them by ``set_rule``.
        categories: of items, for ``category_items_max``; popular items that fill a short list are not capped.
        companions: of the users, where the policy has weights for co-visitation.
    """
    known = [n for n, is_known in enumerate(tastes.is_known) if is_known]
    lists: list[list[RankedItem]] = [[] for _ in tastes.is_known]
    for start in range(0, len(known), limits.score_batch_lists):
        part = known[start : start + limits.score_batch_lists]
        of_part = _encoder_lists(
            # A user with a known event was encoded, so there is a vector.
            np.concatenate([vector for n in part if (vector := tastes.vectors[n]) is not None]).reshape(len(part), -1),
            tastes.recent[part],
            encoder,
            policy,
            withdrawn,
            categories,
            companions.of(part) if companions else None,
        )
        for n, items in zip(part, of_part, strict=True):
            lists[n] = items
    for n, items in enumerate(lists):
        if companions is not None and not items:
            items.extend(_followers(companions, n, policy, withdrawn))
        if len(items) < policy.list_items:
            _fill(items, tastes.item_ids[n], popular[n], policy, withdrawn)
    return lists


def rank_without_encoder(
    tastes: Tastes,
    popular: Sequence[PopularItems],
    policy: Policy,
    withdrawn: Container[str],
    companions: BatchCompanions | None = None,
) -> list[list[RankedItem]]:
    """``rank`` by what costs little: own counts and co-visitation with their weights, and popular items for the rest.

    Items that the model does not know are ranked like any others. The catalogue's boosts and the policy's caps and
    diversity are left out.
    """
    followed = None
    if companions is not None and policy.covisitation is not None and policy.covisitation.weight > 0:
        followed = companions.with_bonuses(policy.covisitation)
    lists: list[list[RankedItem]] = []
    for n, (history, popular_items) in enumerate(zip(tastes.item_ids, popular, strict=True)):
        items = _of_bonuses(history, followed.of_user(n) if followed else [], policy, withdrawn)
        if len(items) < policy.list_items:
            _fill(items, history, popular_items, policy, withdrawn)
        lists.append(items)
    return lists


def _of_bonuses(
    history: bytes, followers: Iterable[tuple[str, float, str]], policy: Policy, withdrawn: Container[str]
) -> list[RankedItem]:
    """The best by the user's own counts and the bonuses of followers; of equal ones what the user took last."""
    repeated = policy.seen_items == "keep" and policy.repeat_weight > 0
    counts: Counter[str] = Counter(reversed(ids_of(history))) if repeated else Counter()
    followed = {item_id: (bonus, cause) for item_id, bonus, cause in followers}
    # Only co-visitation changes the order of own counts, so that any other of the best is among the best of those.
    likely = [item_id for item_id in sorted(counts, key=counts.__getitem__, reverse=True) if item_id not in withdrawn]
    candidates = dict.fromkeys([*likely[: policy.list_items], *(each for each in followed if each not in withdrawn)])
    items: list[RankedItem] = []
    for item_id in candidates:
        own = policy.repeat_weight * math.log1p(counts[item_id])
        added, cause = followed.get(item_id, (0.0, item_id))
        source, reason = ("history", item_id) if own >= added else ("co-visitation", cause)
        items.append(RankedItem(item_id, 0, own + added, source, [reason] if policy.explain else []))
    best = sorted(items, key=lambda item: -item.score)[: policy.list_items]
    for place, item in enumerate(best, 1):
        item.rank, item.score = place, round(item.score, _SCORE_DIGITS)
    return best


def _encoder_lists(
    vectors: NDArray[np.float32],
    recent: NDArray[np.int64],
    encoder: Encoder,
    policy: Policy,
    withdrawn: Container[str],
    categories: Mapping[str, str],
    companions: BatchCompanions | None,
) -> list[list[RankedItem]]:
    drop = policy.seen_items == "drop"
    weight = 0.0 if drop else policy.repeat_weight
    shaped = policy.diversity > 0 or policy.category_items_max > 0
    count = max(policy.list_items, limits.reshaped_candidates_max) if shaped else policy.list_items
    scores, rows = encoder.top_k(vectors, count + (limits.history_events_max if drop else 0))
    if drop:
        scores, rows = _without_seen(scores, rows, recent, count)
    bonuses = repeats(recent, weight) if weight else None
    followed = None
    if companions is not None and policy.covisitation is not None:
        followed = companions.weighted(policy.covisitation, encoder, withdrawn)
        bonuses = bonuses.joined(followed.bonuses) if bonuses else followed.bonuses
    best = Fused(scores, rows, np.zeros(rows.shape, np.int64))
    if bonuses is not None:
        new_items = followed.score_of_new(scores[:, : policy.list_items]) if followed else None
        best = with_bonuses(best, bonuses, vectors, encoder, new_items)
    if shaped:
        best = _shaped(best, encoder, policy, categories, followed)
    reasons: Iterable[list[str]] = ([] for _ in range(best.rows.size))
    if policy.explain:
        reasons = because(recent, best.rows, encoder, weight, followed.effects(best.rows) if followed else None)
    return _listed(best, _names(best.rows, encoder, followed), reasons)


def _listed(best: Fused, names: Sequence[str], reasons: Iterable[list[str]]) -> list[list[RankedItem]]:
    users, width = best.rows.shape
    values: list[float] = np.round(best.scores.astype(np.float64), _SCORE_DIGITS).ravel().tolist()
    sources: list[Source] = _SOURCES[best.sources].ravel().tolist()
    places = list(range(1, width + 1)) * users
    items = list(starmap(RankedItem, zip(names, places, values, sources, reasons, strict=True)))
    lists = [items[start : start + width] for start in range(0, len(items), width)]
    if np.isneginf(best.scores).any():
        lists = [[item for item in of_user if item.score != -np.inf] for of_user in lists]
    return lists


def _names(rows: NDArray[np.int64], encoder: Encoder, followed: Followed | None) -> list[str]:
    """Item ids of the rows, one line after the other; those below 0 are new items."""
    flat = rows.ravel()
    if followed is None:
        return encoder.items_at(flat)
    names = encoder.items_at(np.maximum(flat, OUT_OF_VOCABULARY))
    for place in np.flatnonzero(flat < OUT_OF_VOCABULARY).tolist():
        names[place] = followed.item_ids[-flat[place]]
    return names


def _without_seen(
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
    recent: NDArray[np.int64],
    count: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    # Asking for `history_events_max` more than a list holds leaves `count` unseen ones whatever was seen.
    seen = [set(of_user) for of_user in recent.tolist()]
    known = [[row in seen[n] for row in candidates] for n, candidates in enumerate(rows.tolist())]
    scores = np.where(known, np.float32(-np.inf), scores)
    places = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(scores, places, 1), np.take_along_axis(rows, places, 1)


def _shaped(
    best: Fused, encoder: Encoder, policy: Policy, categories: Mapping[str, str], followed: Followed | None
) -> Fused:
    numbered: dict[str, int] = {"": NO_CATEGORY}
    names = [categories.get(item_id, "") for item_id in _names(best.rows, encoder, followed)]
    numbers = np.array([numbered.setdefault(name, len(numbered)) for name in names], np.int64).reshape(best.rows.shape)
    scores, places = reshaped(
        best.scores,
        best.rows,
        encoder,
        policy.list_items,
        diversity=policy.diversity,
        categories=numbers if policy.category_items_max else None,
        category_items_max=policy.category_items_max,
    )
    return Fused(scores, *(np.take_along_axis(column, places, 1) for column in best[1:]))


def _followers(companions: BatchCompanions, user: int, policy: Policy, withdrawn: Container[str]) -> list[RankedItem]:
    """A list of co-visitation alone, for a user whom the encoder does not know."""
    items: list[RankedItem] = []
    for item_id, share, cause in companions.of_user(user):
        if item_id not in withdrawn and len(items) < policy.list_items:
            reason = [cause] if policy.explain else []
            items.append(RankedItem(item_id, len(items) + 1, round(share, _SCORE_DIGITS), "co-visitation", reason))
    return items


def _fill(
    items: list[RankedItem], history: bytes, popular: PopularItems, policy: Policy, withdrawn: Container[str]
) -> None:
    taken = {item.item_id for item in items}
    if policy.seen_items == "drop":
        taken.update(ids_of(history))
    missing = policy.list_items - len(items)
    likely = popular.top(missing + len(taken) + limits.explained_events_max, withdrawn)
    chosen = [(item, share) for item, share in likely if item not in taken][:missing]
    for place, (item_id, share) in enumerate(chosen, len(items) + 1):
        items.append(RankedItem(item_id, place, round(share, _SCORE_DIGITS), "popularity", []))

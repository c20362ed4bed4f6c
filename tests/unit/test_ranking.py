"""Lists, case by case; tests/property/test_ranking.py holds them against brute force."""

from collections.abc import Container, Sequence
from typing import Any

import msgspec
import numpy as np

from operators import limits, ranking
from operators.candidates.live_covisitation import Companions
from operators.candidates.popularity import PopularItems
from operators.companions import BatchCompanions
from operators.defaults import REPEAT_WEIGHT
from operators.fold import fold
from operators.fusion import CoVisitationWeights
from operators.interest import refresh
from operators.ranking import (
    Cause,
    Policy,
    RankedItem,
    RecommendationList,
    encode_list,
)
from operators.state import UserState
from operators.tastes import Tastes
from tests.fakes import FakeEncoder, event, items

NONE = frozenset[str]()
"""Withdrawn items."""


NOTHING = PopularItems(0, [], np.empty(0))


def state_of(encoder: FakeEncoder, *history: str) -> UserState:
    state = UserState()
    outcome = fold(state, [event(n, item, 1_000 * n) for n, item in enumerate(history)], encoder)
    if outcome.job is not None:
        hidden, vectors = refresh(encoder, [outcome.job])
        state.hidden, state.vector = hidden[0], vectors[0]
    return state


def popular(*ordered: str) -> PopularItems:
    return PopularItems(1, ordered, np.arange(len(ordered), 0, -1.0))


def rank(
    states: Sequence[UserState],
    popular: Any,
    encoder: FakeEncoder,
    policy: Policy,
    withdrawn: Container[str],
    *rest: Any,
) -> list[list[RankedItem]]:
    return ranking.rank(Tastes.of(states, encoder), popular, encoder, policy, withdrawn, *rest)


def rank_without_encoder(states: Sequence[UserState], *rest: Any) -> list[list[RankedItem]]:
    return ranking.rank_without_encoder(Tastes.of(states, FakeEncoder(items(3))), *rest)


def ids(listed: list[RankedItem]) -> list[str]:
    return [item.item_id for item in listed]


def test_unknown_users_get_what_is_popular() -> None:
    encoder = FakeEncoder(items(30))
    popularity = popular("item-5", "not-in-the-model", "item-2")
    states = [UserState(), state_of(encoder, "unheard-of")]
    for listed in rank(states, [popularity] * 2, encoder, Policy(), NONE):
        assert ids(listed) == ["item-5", "not-in-the-model", "item-2"]
        assert [item.source for item in listed] == ["popularity"] * 3
        assert [item.rank for item in listed] == [1, 2, 3]
        assert listed[0].score == 1.0


def test_nobody_knows_anything_in_the_beginning() -> None:
    assert rank([UserState()], [NOTHING], FakeEncoder(items(3)), Policy(), NONE) == [[]]
    assert rank([], [], FakeEncoder(items(3)), Policy(), NONE) == []


def test_withdrawn_items_are_in_no_list() -> None:
    encoder = FakeEncoder(items(30))
    known, unknown = state_of(encoder, "item-1"), UserState()
    popularity = popular("item-0", "item-1", "item-2")
    before = rank([known, unknown], [popularity] * 2, encoder, Policy(), NONE)
    withdrawn = {*ids(before[0])[:4], "item-0"}
    for item in withdrawn:
        encoder.set_rule(item, False, 0.0)
    after = rank([known, unknown], [popularity] * 2, encoder, Policy(), withdrawn)
    assert not withdrawn & {*ids(after[0]), *ids(after[1])}
    assert ids(after[0])[:6] == [item for item in ids(before[0]) if item not in withdrawn][:6]
    assert ids(after[1]) == ["item-1", "item-2"]
    assert len(after[0]) == 10


def test_a_list_that_the_filters_leave_short_is_filled_with_popular_items() -> None:
    encoder = FakeEncoder(items(12))
    for n in range(8):
        encoder.set_rule(f"item-{n}", False, 0.0)
    popularity = popular("item-9", "p-1", "p-2", "item-8", "p-3", "item-0")
    (listed,) = rank([state_of(encoder, "item-0")], [popularity], encoder, Policy(list_items=6), {"item-0"})
    assert {*ids(listed)[:4]} == {"item-8", "item-9", "item-10", "item-11"}
    assert [item.source for item in listed] == ["encoder"] * 4 + ["popularity"] * 2
    assert ids(listed)[4:] == ["p-1", "p-2"]
    assert [item.rank for item in listed] == [1, 2, 3, 4, 5, 6]


def test_a_catalogue_smaller_than_a_list_gives_all_of_it() -> None:
    encoder = FakeEncoder(items(5))
    state = state_of(encoder, "item-0", "item-3")
    (kept,) = rank([state], [NOTHING], encoder, Policy(), NONE)
    (unseen,) = rank([state], [NOTHING], encoder, Policy(seen_items="drop"), NONE)
    assert {*ids(kept)} == {*items(5)}
    assert ids(unseen) == [item for item in ids(kept) if item not in ("item-0", "item-3")]


def test_seen_items_are_dropped_from_both_sources() -> None:
    encoder = FakeEncoder(items(limits.history_events_max + 4))
    history = items(limits.history_events_max)
    state = state_of(encoder, *history)
    popularity = popular("item-0", "item-1", "p-1")
    (listed,) = rank([state], [popularity], encoder, Policy(seen_items="drop"), NONE)
    assert {*ids(listed)} == {"item-50", "item-51", "item-52", "item-53", "p-1"}


def test_because_is_the_recent_event_of_greatest_effect_with_own_counts() -> None:
    encoder = FakeEncoder(items(40))
    history = [f"item-{n}" for n in (3, 17, 29)]
    policy = Policy(repeat_weight=100.0)  # what was taken is there because it was taken
    (listed,) = rank([state_of(encoder, *history, "unheard-of")], [NOTHING], encoder, policy, NONE)
    assert {*ids(listed)[:3]} == {*history}
    for item in listed:
        place = encoder.matrix[encoder.row_of(item.item_id)]
        effects = {seen: float(place @ encoder.influences(np.array(encoder.row_of(seen)))) for seen in history}
        if item.item_id in effects:
            assert item.because == [item.item_id]
        else:
            assert item.because == [max(effects, key=lambda seen: effects[seen])]


def test_because_is_empty_where_nothing_recent_is_in_the_model_or_nobody_asked() -> None:
    encoder = FakeEncoder(items(40))
    state = state_of(encoder, "item-1", *(f"unheard-of-{n}" for n in range(16)))
    (listed,) = rank([state], [NOTHING], encoder, Policy(), NONE)
    assert [item.because for item in listed] == [[]] * 10
    (silent,) = rank([state_of(encoder, "item-1")], [NOTHING], encoder, Policy(explain=False), NONE)
    assert [item.because for item in silent] == [[]] * 10


def test_more_users_than_one_scoring_call_takes() -> None:
    encoder = FakeEncoder(items(25))
    states = [state_of(encoder, f"item-{n % 25}") for n in range(2 * limits.score_batch_lists + 3)]
    states[limits.score_batch_lists] = UserState()
    popularity = popular("item-7")
    together = rank(states, [popularity] * len(states), encoder, Policy(), NONE)
    for n, state in enumerate(states):
        assert ids(together[n]) == ids(rank([state], [popularity], encoder, Policy(), NONE)[0])


def test_scores_are_those_of_the_encoder() -> None:
    encoder = FakeEncoder(items(25))
    state = state_of(encoder, "item-4", "item-9")
    (listed,) = rank([state], [NOTHING], encoder, Policy(), NONE)
    assert state.vector is not None
    for item in listed:
        row = encoder.row_of(item.item_id)
        own = REPEAT_WEIGHT * np.log1p(float(item.item_id in ("item-4", "item-9")))
        exact = float(np.dot(encoder.matrix[row], state.vector) + encoder.bias[row] + own)
        assert abs(item.score - exact) < 1e-4


def test_a_boost_is_added_to_the_score_whoever_asks() -> None:
    encoder = FakeEncoder(items(25))
    state = state_of(encoder, "item-4")
    (before,) = rank([state], [NOTHING], encoder, Policy(list_items=25), NONE)
    encoder.set_rule(before[-1].item_id, True, 50.0)
    (after,) = rank([state], [NOTHING], encoder, Policy(list_items=25), NONE)
    assert ids(after) == [before[-1].item_id, *ids(before)[:-1]]
    assert abs(after[0].score - before[-1].score - 50.0) < 1e-3


def test_no_more_of_a_category_than_the_policy_says() -> None:
    encoder = FakeEncoder(items(40))
    states = [state_of(encoder, f"item-{n}") for n in range(5)]
    categories = {f"item-{n}": "even" if n % 2 == 0 else "third" for n in range(40) if n % 2 == 0 or n % 3 == 0}
    capped = rank(states, [NOTHING] * 5, encoder, Policy(category_items_max=2), NONE, categories)
    free = rank(states, [NOTHING] * 5, encoder, Policy(list_items=40), NONE, categories)
    for listed, everything in zip(capped, free, strict=True):
        expected: list[str] = []
        for item in ids(everything):
            name = categories.get(item)
            if name is None or sum(categories.get(other) == name for other in expected) < 2:
                expected.append(item)
        assert ids(listed) == expected[:10]


def test_where_every_category_is_full_popular_items_fill_the_list() -> None:
    encoder = FakeEncoder(items(6))
    categories = dict.fromkeys(items(6), "one")
    policy = Policy(category_items_max=2, list_items=4)
    (listed,) = rank([state_of(encoder, "item-1")], [popular("p-1")], encoder, policy, NONE, categories)
    assert [item.source for item in listed] == ["encoder", "encoder", "popularity"]


def test_without_the_encoder_own_counts_go_first_and_popular_items_fill_the_list() -> None:
    state = state_of(FakeEncoder(items(5)), "item-1", "item-2", "unheard-of", "item-1", "item-3")
    popularity = popular("item-2", "p-1", "p-2")
    (listed,) = rank_without_encoder([state], [popularity], Policy(list_items=5), {"item-3"})
    assert ids(listed) == ["item-1", "unheard-of", "item-2", "p-1", "p-2"]
    assert [item.rank for item in listed] == [1, 2, 3, 4, 5]
    assert [item.source for item in listed] == ["history"] * 3 + ["popularity"] * 2
    assert [item.because for item in listed] == [["item-1"], ["unheard-of"], ["item-2"], [], []]
    assert listed[0].score == round(REPEAT_WEIGHT * np.log(3), 4)
    (dropped,) = rank_without_encoder([state], [popularity], Policy(seen_items="drop"), NONE)
    assert ids(dropped) == ["p-1", "p-2"]
    (popular_only,) = rank_without_encoder([state], [popularity], Policy(repeat_weight=0.0), NONE)
    assert ids(popular_only) == ["item-2", "p-1", "p-2"]


def test_without_the_encoder_co_visitation_is_added_to_own_counts() -> None:
    encoder = FakeEncoder(items(9))
    state = state_of(encoder, "item-1", "item-2", "item-2")
    found = Companions.none(1)
    item_ids = ["", "item-7", "item-1", "item-8", "item-2"]
    found.slots[0, :3], found.shares[0, :3], found.causes[0, :3] = [1, 2, 3], [0.5, 0.25, 0.01], [4, 4, 2]
    weights = CoVisitationWeights(weight=2.0, scale=10.0)
    policy = Policy(list_items=4, repeat_weight=1.0, covisitation=weights)
    (listed,) = rank_without_encoder([state], [NOTHING], policy, NONE, BatchCompanions(item_ids, found))
    # item-1: log 2 by its count and 2 log(1 + 10 / 4) after item-2; item-7: 2 log(1 + 10 / 2).
    wanted = {
        "item-7": (2 * np.log(6), "co-visitation", "item-2"),
        "item-1": (np.log(2) + 2 * np.log(3.5), "co-visitation", "item-2"),
        "item-2": (np.log(3), "history", "item-2"),
        "item-8": (2 * np.log(1.1), "co-visitation", "item-1"),
    }
    assert ids(listed) == sorted(wanted, key=lambda item: -wanted[item][0])
    nothing = Policy(list_items=4, repeat_weight=0.0, covisitation=CoVisitationWeights(weight=0.0, scale=10.0))
    assert rank_without_encoder([state], [NOTHING], nothing, NONE, BatchCompanions(item_ids, found)) == [[]]
    for item in listed:
        score, source, cause = wanted[item.item_id]
        np.testing.assert_allclose(item.score, score, atol=1e-4)
        assert (item.source, item.because) == (source, [cause])


def test_diversity_is_maximal_marginal_relevance() -> None:
    encoder = FakeEncoder(items(30))
    states = [state_of(encoder, f"item-{n}", f"item-{n + 7}") for n in range(4)]
    unit = encoder.matrix / np.linalg.norm(encoder.matrix, axis=1, keepdims=True)
    for diversity in (0.3, 0.8, 1.0):
        lists = rank(states, [NOTHING] * 4, encoder, Policy(diversity=diversity), NONE)
        plain = rank(states, [NOTHING] * 4, encoder, Policy(list_items=30), NONE)
        for listed, everything in zip(lists, plain, strict=True):
            score = {item.item_id: item.score for item in everything}
            low, span = min(score.values()), max(score.values()) - min(score.values())
            chosen: list[str] = []
            while len(chosen) < 10:

                def value(item: str, taken: list[str] = chosen) -> float:
                    row = unit[encoder.row_of(item)]
                    near = max([float(row @ unit[encoder.row_of(other)]) for other in taken], default=0.0)
                    return (1 - diversity) * (score[item] - low) / span - diversity * near  # noqa: B023

                chosen.append(max((item for item in score if item not in chosen), key=value))
            assert ids(listed) == chosen


def test_a_list_of_all_variety_holds_each_item_once_and_none_that_is_withdrawn() -> None:
    encoder = FakeEncoder(items(12))
    state = state_of(encoder, "item-1", "item-8")
    for item in ("item-2", "item-3"):
        encoder.set_rule(item, False, 0.0)
    (listed,) = rank([state], [NOTHING], encoder, Policy(diversity=1.0), {"item-2", "item-3"})
    assert sorted(ids(listed)) == sorted({*items(12)} - {"item-2", "item-3"})


def test_a_list_as_json() -> None:
    listed = RecommendationList(
        request_id="view-0-7",
        user_id="u",
        generated_at=2,
        event_time=1,
        caused_by=[Cause("view", 0, 7)],
        model_version="m",
        variant="default",
        degraded=False,
        items=[RankedItem("i", 1, 0.5, "encoder", ["j"])],
    )
    assert msgspec.json.decode(encode_list(listed)) == {
        "request_id": "view-0-7",
        "user_id": "u",
        "generated_at": 2,
        "event_time": 1,
        "caused_by": [{"topic": "view", "partition": 0, "offset": 7}],
        "model_version": "m",
        "variant": "default",
        "degraded": False,
        "items": [{"item_id": "i", "rank": 1, "score": 0.5, "source": "encoder", "because": ["j"]}],
    }

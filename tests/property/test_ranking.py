"""Lists against brute force over the whole catalogue."""

from typing import NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.candidates.live_covisitation import COMPANIONS, Companions
from operators.candidates.popularity import PopularItems
from operators.companions import BatchCompanions
from operators.fold import fold
from operators.fusion import CoVisitationWeights
from operators.interest import refresh
from operators.ranking import Policy, RankedItem, rank
from operators.state import UserState
from operators.tastes import Tastes
from tests.fakes import FakeEncoder, event, items

CATALOGUE = items(90)
OUTSIDE = [f"new-{n}" for n in range(6)]
HISTORIES = st.lists(st.sampled_from([*CATALOGUE, *OUTSIDE]), max_size=60) | st.lists(st.sampled_from(OUTSIDE))
POPULAR = st.lists(st.sampled_from([*CATALOGUE[:40], *OUTSIDE]), max_size=60, unique=True)
WITHDRAWN = st.sets(st.sampled_from([*CATALOGUE, *OUTSIDE]), max_size=40) | st.just({*CATALOGUE[3:]})
POLICIES = st.builds(
    Policy,
    list_items=st.integers(1, 20),
    seen_items=st.sampled_from(["keep", "drop"]),
    explain=st.booleans(),
    repeat_weight=st.sampled_from([0.0, 0.7, 2.0]),
    covisitation=st.none()
    | st.builds(
        CoVisitationWeights,
        weight=st.sampled_from([0.3, 1.5]),
        scale=st.sampled_from([10.0, 1_000.0]),
        new_items=st.sampled_from([None, -1.0, 0.0, 3.0]),
    ),
)
FOLLOWED = st.lists(st.sampled_from([*CATALOGUE, *OUTSIDE]), max_size=COMPANIONS, unique=True)


class World(NamedTuple):
    """One partition."""

    encoder: FakeEncoder
    popular: PopularItems
    policy: Policy
    withdrawn: set[str]


def state_of(encoder: FakeEncoder, history: list[str]) -> UserState:
    state = UserState()
    outcome = fold(state, [event(n, item, 1_000 * n) for n, item in enumerate(history)], encoder)
    if outcome.job is not None:
        hidden, vectors = refresh(encoder, [outcome.job])
        state.hidden, state.vector = hidden[0], vectors[0]
    return state


def share_of(place: int) -> np.float32:
    """Of the item at a place of those that followed."""
    return np.float32(0.4 / (1 + place))


def brute_force(world: World, state: UserState, history: list[str], followed: list[str]) -> list[tuple[str, str]]:
    """Item and source of every place, by scoring and sorting everything."""
    policy, encoder = world.policy, world.encoder
    kept = policy.seen_items == "keep"
    banned = world.withdrawn | (set[str]() if kept else {*history[-50:]})
    chosen: list[tuple[str, str]] = []
    if any(item in CATALOGUE for item in history):
        assert state.vector is not None
        alone = np.einsum("d,nd->n", state.vector, encoder.matrix) + encoder.bias
        scores = {encoder.items[row]: alone[row] for row in range(1, len(alone)) if encoder.items[row] not in banned}
        own = sorted(scores, key=lambda item: (-scores[item], encoder.rows[item]))[: policy.list_items]
        weights = policy.covisitation
        if weights is not None and weights.new_items is not None and len(own) == policy.list_items:
            last = scores[own[-1]] + np.float32(weights.new_items)
            scores |= {item: last for item in followed if item in OUTSIDE and item not in banned}
        sources: dict[str, str] = dict.fromkeys(scores, "encoder")
        for item in scores:
            repeated = policy.repeat_weight * np.log1p(history[-50:].count(item)) * kept * (item in CATALOGUE)
            moved = 0.0
            if weights is not None and item in followed:
                moved = weights.weight * np.log1p(weights.scale * share_of(followed.index(item)))
            scores[item] += np.float32(repeated) + np.float32(moved)
            if item not in own:
                sources[item] = "history" if repeated >= moved else "co-visitation"
        chosen = [(item, sources[item]) for item in sorted(scores, key=lambda item: -scores[item])]
    if not chosen and policy.covisitation is not None:
        chosen = [(item, "co-visitation") for item in followed if item not in banned]
    taken = {item for item, _ in chosen[: policy.list_items]} | banned
    for item, _ in world.popular.top(1_000):
        if item not in taken:
            chosen.append((item, "popularity"))
    return chosen[: policy.list_items]


def companions_of(followed: list[list[str]], histories: list[list[str]]) -> BatchCompanions:
    """What came after each user's events, by the newest one of them."""
    item_ids, found = [""], Companions.none(len(followed))
    for user, (names, history) in enumerate(zip(followed, histories, strict=True)):
        for place, name in enumerate(names if history else []):
            found.slots[user, place], found.causes[user, place] = len(item_ids), len(item_ids) + 1
            found.shares[user, place] = found.greatest[user, place] = share_of(place)
            item_ids += [name, history[-1]]
    return BatchCompanions(item_ids, found)


def assert_well_formed(listed: list[RankedItem], world: World, history: list[str]) -> None:
    names = [item.item_id for item in listed]
    assert [item.rank for item in listed] == list(range(1, len(listed) + 1))
    assert len(set(names)) == len(names) <= world.policy.list_items
    assert not world.withdrawn & {*names}
    for popular in (True, False):
        scores = [item.score for item in listed if (item.source == "popularity") is popular]
        assert scores == sorted(scores, reverse=True)
        assert np.isfinite(scores).all()
    for item in listed:
        assert {*item.because} <= {*history[-16:]}
        if item.source in {"encoder", "history"}:
            assert {*item.because} <= {*CATALOGUE, history[-1]}
            assert not world.policy.explain or bool(item.because) or not {*history[-16:]} & {*CATALOGUE}
        elif item.source == "co-visitation":
            assert bool(item.because) is world.policy.explain
        else:
            assert not item.because
        assert world.policy.explain or not item.because


@settings(max_examples=600)
@given(st.lists(st.tuples(HISTORIES, FOLLOWED), max_size=6), POPULAR, POLICIES, WITHDRAWN)
def test_equals_brute_force(
    users: list[tuple[list[str], list[str]]], popular: list[str], policy: Policy, withdrawn: set[str]
) -> None:
    histories = [history for history, _ in users]
    seen = [{*history[-50:]} if policy.seen_items == "drop" else set[str]() for history in histories]
    followed = [
        [item for item in names if item not in had] if history else []
        for (history, names), had in zip(users, seen, strict=True)
    ]
    counted = PopularItems(len(popular), popular, np.arange(1.0, len(popular) + 1))
    world = World(FakeEncoder(CATALOGUE), counted, policy, withdrawn)
    for item in withdrawn:
        world.encoder.set_rule(item, False, 0.0)
    states = [state_of(world.encoder, history) for history in histories]
    companions = companions_of(followed, histories) if policy.covisitation else None
    tastes, popular = Tastes.of(states, world.encoder), [world.popular] * len(states)
    lists = rank(tastes, popular, world.encoder, policy, withdrawn, companions=companions)
    assert len(lists) == len(histories)
    for listed, state, history, names in zip(lists, states, histories, followed, strict=True):
        assert [(item.item_id, item.source) for item in listed] == brute_force(world, state, history, names)
        assert_well_formed(listed, world, history)


def test_a_new_item_that_is_withdrawn_stands_in_no_list() -> None:
    weights = CoVisitationWeights(weight=1.5, scale=1_000.0, new_items=3.0)
    policy = Policy(list_items=5, covisitation=weights)
    world = World(FakeEncoder(CATALOGUE), PopularItems(0, [], np.empty(0)), policy, set())
    for history in ([CATALOGUE[3]], [OUTSIDE[2]]):  # known to the encoder, and not
        states = [state_of(world.encoder, history)]
        companions = companions_of([[OUTSIDE[0], OUTSIDE[1]]], [history])
        for withdrawn, expected in ((set[str](), OUTSIDE[:2]), ({OUTSIDE[0]}, OUTSIDE[1:2])):
            tastes = Tastes.of(states, world.encoder)
            (listed,) = rank(tastes, [world.popular], world.encoder, policy, withdrawn, companions=companions)
            found = [item.item_id for item in listed if item.source == "co-visitation"]
            assert [item for item in found if item in OUTSIDE] == expected

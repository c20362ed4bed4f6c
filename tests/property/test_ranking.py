"""Lists against brute force over the whole catalogue."""

from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.candidates.popularity import Popularity
from operators.fold import fold
from operators.interest import refresh
from operators.ranking import Policy, RankedItem, rank
from operators.state import UserState
from tests.fakes import FakeEncoder, event, items

CATALOGUE = items(90)
OUTSIDE = [f"new-{n}" for n in range(6)]
HISTORIES = st.lists(st.sampled_from([*CATALOGUE, *OUTSIDE]), max_size=60) | st.lists(st.sampled_from(OUTSIDE))
POPULAR = st.lists(st.sampled_from([*CATALOGUE[:40], *OUTSIDE]), max_size=60)
WITHDRAWN = st.sets(st.sampled_from([*CATALOGUE, *OUTSIDE]), max_size=40) | st.just({*CATALOGUE[3:]})
POLICIES = st.builds(
    Policy,
    list_items=st.integers(1, 20),
    seen_items=st.sampled_from(["keep", "drop"]),
    explain=st.booleans(),
    repeat_weight=st.sampled_from([0.0, 0.7, 2.0]),
)


class World(NamedTuple):
    """One partition."""

    encoder: FakeEncoder
    popularity: Popularity
    policy: Policy
    withdrawn: set[str]


def state_of(encoder: FakeEncoder, history: list[str]) -> UserState:
    state = UserState()
    outcome = fold(state, [event(n, item, 1_000 * n) for n, item in enumerate(history)], encoder)
    if outcome.job is not None:
        hidden, vectors = refresh(encoder, [outcome.job])
        state.hidden, state.vector = hidden[0], vectors[0]
    return state


def brute_force(world: World, state: UserState, history: list[str]) -> list[tuple[str, str]]:
    """Item and source of every place, by scoring and sorting everything."""
    seen = {*history[-50:]} if world.policy.seen_items == "drop" else set[str]()
    banned = world.withdrawn | seen
    chosen: list[tuple[str, str]] = []
    if any(item in CATALOGUE for item in history):
        assert state.vector is not None
        scores = np.einsum("d,nd->n", state.vector, world.encoder.matrix) + world.encoder.bias
        if world.policy.seen_items == "keep":
            for row in range(1, len(scores)):
                scores[row] += world.policy.repeat_weight * np.log1p(history[-50:].count(world.encoder.items[row]))
        open_rows = [row for row in range(1, len(scores)) if world.encoder.items[row] not in banned]
        best = sorted(open_rows, key=lambda row: (-scores[row], row))
        chosen = [(world.encoder.items[row], "encoder") for row in best]
    taken = {item for item, _ in chosen[: world.policy.list_items]} | banned
    for item, _ in world.popularity.top(1_000):
        if item not in taken:
            chosen.append((item, "popularity"))
    return chosen[: world.policy.list_items]


def assert_well_formed(listed: list[RankedItem], world: World, history: list[str]) -> None:
    names = [item.item_id for item in listed]
    assert [item.rank for item in listed] == list(range(1, len(listed) + 1))
    assert len(set(names)) == len(names) <= world.policy.list_items
    assert not world.withdrawn & {*names}
    for source in ("encoder", "popularity"):
        scores = [item.score for item in listed if item.source == source]
        assert scores == sorted(scores, reverse=True)
        assert np.isfinite(scores).all()
    for item in listed:
        assert {*item.because} <= {*history[-16:]} & {*CATALOGUE}
        wanted = world.policy.explain and item.source == "encoder" and bool({*history[-16:]} & {*CATALOGUE})
        assert bool(item.because) is wanted


@given(st.lists(HISTORIES, max_size=6), POPULAR, POLICIES, WITHDRAWN)
def test_equals_brute_force(
    histories: list[list[str]], popular: list[str], policy: Policy, withdrawn: set[str]
) -> None:
    world = World(FakeEncoder(CATALOGUE), Popularity(), policy, withdrawn)
    for n, item in enumerate(popular):
        world.popularity.add(item, 1_000 * n)
    for item in withdrawn:
        world.encoder.set_rule(item, False, 0.0)
    states = [state_of(world.encoder, history) for history in histories]
    lists = rank(states, [world.popularity] * len(states), world.encoder, policy, withdrawn)
    assert len(lists) == len(histories)
    for listed, state, history in zip(lists, states, histories, strict=True):
        assert [(item.item_id, item.source) for item in listed] == brute_force(world, state, history)
        assert_well_formed(listed, world, history)

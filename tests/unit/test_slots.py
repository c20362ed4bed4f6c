"""Slots against a plain dictionary of who is where."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.slots import FRESH, SCRATCH, Slots
from operators import limits

USERS = 5


@given(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=USERS, unique=True), max_size=30))
def test_nobody_finds_what_is_not_theirs(calls: list[list[int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "device_users_max", USERS)
        slots = Slots()
    content: dict[int, int] = {}
    names = np.zeros(12, np.int64)
    for users in calls:
        found = slots.found(names[users])
        for user, slot in zip(users, found.tolist(), strict=True):
            assert slot == FRESH or content[slot] == user
        taken = slots.taken(found)
        assert len(set(taken.tolist())) == len(users)
        assert not {FRESH, SCRATCH} & set(taken.tolist())
        assert taken.max() < slots.count
        assert (taken[found != FRESH] == found[found != FRESH]).all()
        assert (slots.found(names[users]) == FRESH).all()
        content |= dict(zip(taken.tolist(), users, strict=True))
        names[users] = slots.name(taken)
        assert (slots.found(names[users]) == taken).all()


def test_users_stay_while_there_is_room() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "device_users_max", USERS)
        slots = Slots()
    names = np.concatenate([slots.name(slots.taken(np.full(1, FRESH))) for _ in range(USERS)])
    assert (slots.found(names) != FRESH).all()
    slots.name(slots.taken(np.full(1, FRESH)))
    assert np.flatnonzero(slots.found(names) == FRESH).tolist() == [0]


def test_names_of_two_encoders_are_two() -> None:
    one, other = Slots(), Slots()
    names = one.name(one.taken(np.full(3, FRESH)))
    other.name(other.taken(np.full(3, FRESH)))
    assert (other.found(names) == FRESH).all()
    assert (one.found(names) != FRESH).all()
    assert (one.found(np.array([0, 2**62 + 2**20 - 1])) == FRESH).all()

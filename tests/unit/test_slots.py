"""Slots against a plain dictionary of who is where."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.slots import FRESH, SCRATCH, Slots
from operators import limits

CALL_USERS = 4
USERS = 2 * CALL_USERS
NONE = np.zeros(0, np.int64)


def slots_of(users: int) -> Slots:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "device_users_max", users)
        return Slots()


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 11), min_size=1, max_size=CALL_USERS, unique=True), st.booleans()),
        max_size=30,
    )
)
def test_nobody_finds_what_is_not_theirs_and_a_call_that_fails_changes_nothing(
    calls: list[tuple[list[int], bool]],
) -> None:
    slots = slots_of(USERS)
    content: dict[int, int] = {}
    names = np.zeros(12, np.int64)
    for users, fails in calls:
        found = slots.found(names[users])
        for user, slot in zip(users, found.tolist(), strict=True):
            assert slot == FRESH or content[slot] == user
        taken = slots.taken(len(users), keep=found)
        assert len(set(taken.tolist())) == len(users)
        assert not {FRESH, SCRATCH, *found.tolist()} & set(taken.tolist())
        assert taken.max() < slots.count
        assert (slots.found(names[users]) == found).all()
        for slot in taken.tolist():
            content[slot] = -1  # a call that fails may have written there
        if fails:
            continue
        names[users] = slots.name(taken, instead_of=found)
        content |= dict(zip(taken.tolist(), users, strict=True))
        assert (slots.found(names[users]) == taken).all()


def test_users_stay_while_there_is_room_for_a_call_beside_them() -> None:
    slots = slots_of(5)
    names = np.concatenate([slots.name(slots.taken(1, NONE), NONE) for _ in range(4)])
    for _ in range(9):  # the same users again and again
        found = slots.found(names)
        assert (found != FRESH).all()
        names[:1] = slots.name(slots.taken(1, keep=found[:1]), instead_of=found[:1])
    slots.name(slots.taken(2, keep=NONE), NONE)
    assert np.count_nonzero(slots.found(names) == FRESH) == 1


def test_names_of_two_encoders_are_two() -> None:
    one, other = Slots(), Slots()
    names = one.name(one.taken(3, NONE), NONE)
    other.name(other.taken(3, NONE), NONE)
    assert (other.found(names) == FRESH).all()
    assert (one.found(names) != FRESH).all()
    assert (one.found(np.array([0, -1, 2**62 + 2**20 - 1])) == FRESH).all()

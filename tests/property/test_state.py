"""Whatever a state holds, its bytes bring it back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from operators import limits
from operators.state import SOURCE_SLOTS, UserState, decode, encode
from tests.fakes import past

ITEMS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)
EVENTS = st.tuples(ITEMS, st.integers(0, 2), st.integers(0, limits.timestamp_ms_max), st.integers(0, 2**64 - 1))
FLOATS = of_numpy.arrays(np.float32, st.integers(1, 300), elements=st.floats(width=32))


@st.composite
def states(draw: st.DrawFn) -> UserState:
    state = UserState()
    state.fences = draw(st.lists(st.integers(0, 2**63 - 1), min_size=SOURCE_SLOTS, max_size=SOURCE_SLOTS))
    state.erased_until_ms = draw(st.just(-1) | st.integers(0, limits.timestamp_ms_max))
    state.model_version = draw(st.text(max_size=40).filter(lambda text: len(text.encode()) < 256))
    counts = st.integers(0, 2**32 - 1)
    state.events_count, state.late_count, state.known_count, state.unknown_count = (draw(counts) for _ in range(4))
    for event in draw(st.lists(EVENTS, max_size=60)):
        state.extend(past(*event))
    state.hidden, state.vector = draw(st.none() | FLOATS), draw(st.none() | FLOATS)
    return state


@given(states())
def test_round_trip(state: UserState) -> None:
    value = encode(state)
    again = decode(value)
    for name in UserState.__slots__:
        ours, theirs = getattr(state, name), getattr(again, name)
        if isinstance(ours, np.ndarray):
            assert theirs.dtype == np.float32
            assert theirs.tobytes() == ours.tobytes(), name
        else:
            assert theirs == ours, name
    assert encode(again) == value
    assert len(again.history_items) == len(again.history_types) == len(again.history_times_ms)


@given(states(), st.data())
def test_damaged_bytes_are_refused(state: UserState, data: st.DataObject) -> None:
    value = bytearray(encode(state))
    at = data.draw(st.integers(0, len(value) - 1))
    value[at] ^= data.draw(st.integers(1, 255))
    try:
        decode(bytes(value))
    except ValueError as error:
        assert "state" in str(error)
    else:
        raise AssertionError(f"a changed byte at {at} went unnoticed")

"""fold, case by case; tests/property/test_fold.py holds it against an oracle."""

from collections.abc import Sequence

import numpy as np

from operators import limits
from operators.events import Event
from operators.fold import Folded, fold
from operators.interest import refresh
from operators.state import UserState
from tests.fakes import FakeEncoder, event, fresh_count, full_pass, items

ENCODER = FakeEncoder(items(10))


def folded(state: UserState, events: Sequence[Event], encoder: FakeEncoder = ENCODER) -> Folded:
    """Fold, and take the steps that the encoder owes, as ``process_batch`` does."""
    outcome = fold(state, events, encoder)
    if outcome.job is not None:
        hidden, vectors = refresh(encoder, [outcome.job])
        state.hidden, state.vector = hidden[0].copy(), vectors[0].copy()
    return outcome


def assert_is_pass_of(state: UserState, history: list[tuple[str, int, int]], encoder: FakeEncoder = ENCODER) -> None:
    hidden, vector = full_pass(encoder, history)
    assert state.hidden is not None
    assert state.vector is not None
    np.testing.assert_allclose(state.hidden, hidden, atol=1e-5)
    np.testing.assert_allclose(state.vector, vector, atol=1e-5)


def test_the_first_event_makes_the_state() -> None:
    state = UserState()
    outcome = folded(state, [event(41, "item-3", 5_000, event_type=1)])
    assert (fresh_count(outcome), outcome.duplicates, outcome.late) == (1, 0, 0)
    assert state.fences == [0, 42, 0, 0]
    assert (state.events_count, state.known_count, state.unknown_count) == (1, 1, 0)
    assert state.model_version == "fake-1"
    assert_is_pass_of(state, [("item-3", 1, 5_000)])


def test_one_step_is_owed_for_one_more_event() -> None:
    state = UserState()
    folded(state, [event(n, f"item-{n}", 1_000 * n) for n in range(9)])
    outcome = folded(state, [event(9, "item-9", 99_000)])
    assert outcome.job is not None
    assert len(outcome.job.rows) == 1
    assert_is_pass_of(state, [*((f"item-{n}", 0, 1_000 * n) for n in range(9)), ("item-9", 0, 99_000)])


def test_below_the_fence_is_a_duplicate_and_owes_nothing() -> None:
    state = UserState()
    events = [event(n, f"item-{n}", 1_000 + n) for n in range(5)]
    folded(state, events)
    hidden = state.hidden
    outcome = folded(state, events[2:])
    assert (outcome.job, fresh_count(outcome), *outcome[2:]) == (None, 0, 3, 0, 0, 0)
    assert state.hidden is hidden
    assert state.history_items == [f"item-{n}" for n in range(5)]
    assert state.fences == [5, 0, 0, 0]


def test_fences_are_of_one_topic_each() -> None:
    state = UserState()
    folded(state, [event(100, "item-0", 1_000, event_type=2)])
    outcome = folded(state, [event(3, "item-1", 2_000, event_type=0)])
    assert fresh_count(outcome) == 1
    assert state.fences == [4, 0, 101, 0]


def test_a_known_event_id_is_a_duplicate_at_any_offset() -> None:
    state = UserState()
    folded(state, [event(0, "item-0", 1_000, event_id="a")])
    outcome = folded(
        state,
        [
            event(1, "item-0", 1_000, event_id="a"),
            event(2, "item-1", 2_000, event_id="b"),
            event(3, "item-1", 2_000, event_id="b"),
            event(4, "item-1", 2_000),
            event(5, "item-1", 2_000),
        ],
    )
    assert (fresh_count(outcome), outcome.duplicates) == (3, 2)
    assert state.fences == [6, 0, 0, 0]


def test_a_batch_is_folded_in_event_time_order() -> None:
    state = UserState()
    folded(state, [event(0, "item-0", 3_000), event(1, "item-1", 1_000), event(0, "item-2", 2_000, event_type=1)])
    assert state.history_items == ["item-1", "item-2", "item-0"]
    assert_is_pass_of(state, [("item-1", 0, 1_000), ("item-2", 1, 2_000), ("item-0", 0, 3_000)])


def test_an_older_event_goes_to_its_place_and_the_history_is_encoded_anew() -> None:
    state = UserState()
    folded(state, [event(0, "item-0", 1_000), event(1, "item-1", 3_000)])
    folded(state, [event(2, "item-2", 2_000)])
    assert state.history_items == ["item-0", "item-2", "item-1"]
    assert_is_pass_of(state, [("item-0", 0, 1_000), ("item-2", 0, 2_000), ("item-1", 0, 3_000)])


def test_older_than_a_full_history_is_late() -> None:
    state = UserState()
    folded(state, [event(n, "item-1", 10_000 + n) for n in range(limits.history_events_max)])
    outcome = folded(state, [event(50, "item-2", 9_999), event(51, "item-3", 10_000)])
    assert (outcome.late, fresh_count(outcome)) == (1, 1)
    assert "item-2" not in state.history_items
    assert state.history_items.count("item-3") == 1
    assert (state.late_count, state.events_count, state.fences[0]) == (1, 51, 52)


def test_a_first_batch_longer_than_the_history_equals_event_by_event() -> None:
    events = [event(n, f"item-{n % 12}", 1_000 * n, event_type=n % 3) for n in range(3 * limits.history_events_max)]
    at_once, one_by_one = UserState(), UserState()
    folded(at_once, events)
    for one in events:
        folded(one_by_one, [one])
    assert at_once.history_items == one_by_one.history_items
    assert at_once.fences == one_by_one.fences
    assert (at_once.known_count, at_once.unknown_count) == (one_by_one.known_count, one_by_one.unknown_count)
    assert at_once.hidden is not None
    assert one_by_one.hidden is not None
    np.testing.assert_array_equal(at_once.hidden, one_by_one.hidden)
    assert_is_pass_of(at_once, [(e.item_id, e.type, e.timestamp_ms) for e in events])


def test_another_model_encodes_the_history_anew_before_the_new_event() -> None:
    other = FakeEncoder(items(4), seed=3, version="fake-2")
    state = UserState()
    folded(state, [event(n, f"item-{n}", 1_000 * n) for n in range(8)])
    outcome = folded(state, [event(8, "item-1", 8_000)], other)
    assert outcome.job is not None
    assert outcome.job.hidden is None
    assert state.model_version == "fake-2"
    assert (state.known_count, state.unknown_count, state.events_count) == (5, 4, 9)
    assert_is_pass_of(state, [*((f"item-{n}", 0, 1_000 * n) for n in range(8)), ("item-1", 0, 8_000)], other)


def test_another_model_encodes_anew_even_when_all_events_are_duplicates() -> None:
    other = FakeEncoder(items(10), seed=3, version="fake-2")
    state = UserState()
    folded(state, [event(0, "item-0", 1_000)])
    outcome = folded(state, [event(0, "item-0", 1_000)], other)
    assert outcome.duplicates == 1
    assert_is_pass_of(state, [("item-0", 0, 1_000)], other)
    assert state.model_version == "fake-2"


def test_items_outside_the_vocabulary_are_kept_and_counted() -> None:
    state = UserState()
    folded(state, [event(0, "unheard-of", 1_000), event(1, "item-1", 2_000), event(2, "neither", 3_000)])
    assert state.history_items == ["unheard-of", "item-1", "neither"]
    assert (state.known_count, state.unknown_count) == (1, 2)
    assert_is_pass_of(state, [("unheard-of", 0, 1_000), ("item-1", 0, 2_000), ("neither", 0, 3_000)])

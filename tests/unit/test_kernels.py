"""The compiled inner loops, each against the same in numpy or plain Python."""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from operators import kernels
from operators.ranking import Cause

LANDMARK_MS, HALF_LIFE_MS = 10_000, 1_000
ROWS = arrays.arrays(np.int64, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.integers(-2, 5))
Ints = NDArray[np.int64]


def floats(*shape: int, seed: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def add(weights: dict[str, float], items: list[str], times_ms: list[int], start: int = 0, items_max: int = 100) -> int:
    counted = list(weights)
    place_of = {item: place for place, item in enumerate(counted)}
    room = np.array([*weights.values(), *[np.nan] * (len(items) - start)])
    times = np.array(times_ms, np.int64)
    end = kernels.add_decayed(
        place_of, counted, room, items, times, start, len(items), LANDMARK_MS, HALF_LIFE_MS, 4.0, items_max
    )
    assert place_of == {item: place for place, item in enumerate(counted)}
    weights |= zip(counted, room.tolist(), strict=False)
    return end


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 14_000)), max_size=30))
def test_weights_grow_by_powers_of_two(events: list[tuple[str, int]]) -> None:
    weights, expected = {"a": 0.5}, {"a": 0.5}
    for item, time_ms in events:
        expected[item] = expected.get(item, 0.0) + 2.0 ** ((time_ms - LANDMARK_MS) / HALF_LIFE_MS)
    assert add(weights, [item for item, _ in events], [time_ms for _, time_ms in events]) == len(events)
    assert weights == expected


def test_adding_stops_before_a_time_that_is_too_far_and_behind_an_item_too_many() -> None:
    weights: dict[str, float] = {}
    assert add(weights, ["a", "b", "c"], [10_000, 14_001, 10_000]) == 1
    assert add(weights, ["a", "b", "c", "d"], [10_000] * 4, start=1, items_max=2) == 3
    assert list(weights) == ["a", "b", "c"]


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 2**62)), st.lists(st.text(max_size=3)))
def test_the_row_of_each_item(row_of: dict[str, int], item_ids: list[str]) -> None:
    rows = np.full(len(item_ids), 77, np.int64)
    kernels.rows_in(row_of, item_ids, rows)
    assert rows.tolist() == [row_of.get(item_id, 0) for item_id in item_ids]


NUMBERS = st.integers(0, 2**63 - 1) | st.integers(0, 200)


@given(st.lists(st.tuples(NUMBERS, st.lists(st.tuples(st.integers(0, 2), NUMBERS), max_size=5)), max_size=4))
def test_causes_are_the_json_of_their_objects(users: list[tuple[int, list[tuple[int, int]]]]) -> None:
    topics = ["view", "c", "a.longer_name-of-purchases"]
    openings = [b'{"topic":"%b","partition":' % topic.encode() for topic in topics]
    partitions = np.array([partition for partition, _ in users], np.int64)
    events = np.array([event for _, came in users for event in came], np.int64).reshape(-1, 2)
    types, offsets = events.T.copy()
    bounds = np.cumsum([0, *(len(came) for _, came in users)])
    written = kernels.caused_by(openings, partitions, types, offsets, bounds)
    for (partition, came), of_user in zip(users, written, strict=True):
        expected = [Cause(topics[event_type], partition, offset) for event_type, offset in came]
        assert of_user == msgspec.json.encode(expected)


def causes(partition: int = 0, event_type: int = 0, offset: int = 0, bounds: Sequence[int] = (0, 1)) -> list[bytes]:
    columns = (np.array([number], np.int64) for number in (partition, event_type, offset))
    return kernels.caused_by([b"{"], *columns, np.array(bounds, np.int64))


@given(ROWS)
def test_occurrences_are_counted_within_a_line(rows: Ints) -> None:
    counts, first = np.empty(rows.shape, np.int64), np.empty(rows.shape, np.uint8)
    kernels.occurrences(rows, counts, first)
    for line, counted, is_first in zip(rows.tolist(), counts.tolist(), first.tolist(), strict=True):
        assert counted == [line.count(row) for row in line]
        assert is_first == [row not in line[:at] for at, row in enumerate(line)]


@pytest.mark.parametrize("width", [1, 7, 8, 64, 67])
def test_dots_are_inner_products_whoever_else_is_there(width: int) -> None:
    vectors, matrix = floats(5, width), floats(12, width, seed=4)[:9]
    rows = np.array([[1, 8, 0], [2, 2, 2], [-1, 9, 3], [7, 0, 10**12], [4, 5, 6]])
    found = np.full(rows.shape, 77, np.float32)
    kernels.dots(vectors, matrix, rows, found)
    is_row = (rows > 0) & (rows < 9)
    exact = np.einsum("bd,bxd->bx", vectors.astype(np.float64), matrix[np.where(is_row, rows, 0)].astype(np.float64))
    np.testing.assert_allclose(found, np.where(is_row, exact, 0), rtol=1e-5, atol=1e-5)
    alone = np.empty((1, 3), np.float32)
    kernels.dots(vectors[4:], matrix, rows[4:], alone)
    np.testing.assert_array_equal(alone, found[4:])


def test_pairs_are_inner_products_of_two_matrices() -> None:
    one, other = floats(9, 20)[:6], floats(7, 20, seed=5)[:4]
    rows, others = np.array([[1, 5], [-1, 6]]), np.array([[0, 3, 2], [1, -2, 4]])
    found = np.full((2, 2, 3), 77, np.float32)
    kernels.pair_dots(one, rows, other, others, found)
    exact = np.einsum("bkd,bed->bke", one[np.clip(rows, 0, 5)], other[np.clip(others, 0, 3)])
    both = ((rows >= 0) & (rows < 6))[:, :, None] & ((others >= 0) & (others < 4))[:, None, :]
    np.testing.assert_allclose(found, np.where(both, exact, 0), rtol=1e-5, atol=1e-5)


@given(ROWS, st.integers(1, 9), st.integers(0, 2**32))
def test_the_strongest_event_is_named_with_its_effect(recent: Ints, named: int, seed: int) -> None:
    recent, named = np.abs(recent), min(named, recent.shape[1])
    rng = np.random.default_rng(seed)
    rows = rng.integers(1, 6, (len(recent), 3))
    effects = rng.integers(-2, 3, (len(recent), 3, named)).astype(np.float32)
    own = np.arange(recent.shape[1] + 1, dtype=np.float32)
    causes, greatest = np.empty(rows.shape, np.int64), np.empty(rows.shape, np.float32)
    kernels.strongest(effects, recent, rows, own, causes, greatest)
    for line, of_line in enumerate(recent.tolist()):
        for at, row in enumerate(rows[line].tolist()):
            known = [
                (float(effects[line, at, place]) + (of_line.count(row) if event == row else 0), -place, event)
                for place, event in enumerate(of_line[:named])
                if event
            ]
            effect, _, event = max(known, default=(-np.inf, 0, 0))
            assert (causes[line, at], greatest[line, at]) == (event, effect)


def add_to(place_of: dict[str, int], items: list[str], room: int) -> int:
    weights, times_ms = np.zeros(room), np.zeros(1, np.int64)
    return kernels.add_decayed(place_of, items, weights, ["b"], times_ms, 0, 1, LANDMARK_MS, HALF_LIFE_MS, 4.0, 9)


INTS, FLOATS, BYTES = np.zeros((2, 3), np.int64), np.zeros((2, 3), np.float32), np.zeros((2, 3), np.uint8)
WRONG: dict[str, Callable[[], object]] = {
    "times": lambda: add({}, ["a"], []),
    "room": lambda: add_to({}, [], room=0),
    "places": lambda: add_to({"a": 0}, [], room=9),
    "rows": lambda: kernels.rows_in({}, ["a"], np.zeros(2, np.int64)),
    "no partition": lambda: causes(partition=-1),
    "no topic": lambda: causes(event_type=1),
    "no type": lambda: causes(event_type=-1),
    "no offset": lambda: causes(offset=-1),
    "beyond": lambda: causes(bounds=(0, 2)),
    "falling": lambda: causes(bounds=(1, 0)),
    "too many users": lambda: causes(bounds=(0, 1, 1)),
    "start": lambda: add({}, ["a"], [1], start=2),
    "counts": lambda: kernels.occurrences(INTS, INTS[:1], BYTES),
    "first": lambda: kernels.occurrences(INTS, INTS.copy(), np.zeros((2, 2), np.uint8)),
    "vectors": lambda: kernels.dots(FLOATS[:1], FLOATS, INTS, FLOATS.copy()),
    "width": lambda: kernels.dots(FLOATS, np.zeros((2, 4), np.float32), INTS, FLOATS.copy()),
    "products": lambda: kernels.pair_dots(FLOATS, INTS, FLOATS, INTS, np.zeros((2, 3, 2), np.float32)),
    "matrices": lambda: kernels.pair_dots(FLOATS, INTS, floats(2, 4), INTS, np.zeros((2, 3, 3), np.float32)),
    "named": lambda: kernels.strongest(floats(2, 3, 4), INTS, INTS, floats(9), INTS.copy(), FLOATS.copy()),
    "own": lambda: kernels.strongest(floats(2, 3, 3), INTS, INTS, floats(3), INTS.copy(), FLOATS.copy()),
    "lines": lambda: kernels.strongest(floats(1, 3, 3), INTS, INTS, floats(9), INTS.copy(), FLOATS.copy()),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_arrays_that_do_not_fit_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"other|as many|more|width|no topic"):
        WRONG[wrong]()


@given(st.lists(st.integers(1, 6), max_size=5), st.integers(1, 9), st.integers(0, 3))
def test_the_recurrence_is_the_one_of_complex_numbers(lengths: list[int], channels: int, first: int) -> None:
    ends = np.cumsum([0, *lengths])[1:]
    events, decay = floats(sum(lengths), 2 * channels), floats(2, channels, seed=4) / 2
    before = floats(len(lengths), first + 2 * channels + 1, seed=5)
    given_events, states = events.copy(), before.copy()
    kernels.recur(events, ends, decay, states, first)
    eigenvalues, part = decay[0] + 1j * decay[1], slice(first, first + 2 * channels)
    for user, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        h = before[user, part][:channels] + 1j * before[user, part][channels:]
        for at in range(start, end):
            h = eigenvalues * h + given_events[at, :channels] + 1j * given_events[at, channels:]
            np.testing.assert_allclose(events[at], np.r_[h.real, h.imag], atol=1e-4)
        np.testing.assert_array_equal(states[user, part], events[end - 1])
        states[user, part] = before[user, part]
    np.testing.assert_array_equal(states, before)  # nothing else was touched


@pytest.mark.parametrize(
    ("ends", "first", "width"),
    [
        ([2, 5], 0, 8),  # an end behind the events
        ([2, 2], 0, 8),  # a user without events
        ([0, 4], 0, 8),
        ([3, 2], 0, 8),
        ([-1, 4], 0, 8),
        ([4], 0, 8),  # a user too few
        ([2, 4], 3, 8),  # columns behind the states
        ([2, 4], -1, 8),
        ([2, 4], 0, 6),  # events of another width
    ],
)
def test_a_recurrence_of_other_shapes_is_refused(ends: list[int], first: int, width: int) -> None:
    events, states = floats(4, width), floats(2, 10)
    with pytest.raises(ValueError, match=r"users|user|width"):
        kernels.recur(events, np.array(ends, np.int64), floats(2, 4), states, first)

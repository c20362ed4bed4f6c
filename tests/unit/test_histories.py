"""The compiled loops over histories, each against the same in plain Python."""

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators import histories

IDS = st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1), max_size=9)


class _History:
    """The five columns of some events, each its own numbers, as a state has them."""

    def __init__(self, ids: list[str], first: int, with_rows: bool) -> None:
        numbers = range(first, first + len(ids))
        self.item_ids = "\0".join(ids).encode()
        self.types = bytearray(n % 3 for n in numbers)
        self.times_ms, self.fingerprints = array("q", [-n for n in numbers]), array("Q", [2**63 + n for n in numbers])
        self.rows = array("q", [10 * n for n in numbers]) if with_rows else None

    @property
    def ids(self) -> list[str]:
        return self.item_ids.decode().split("\0") if self.item_ids else []

    def past(self) -> tuple[list[str], bytes, bytes, bytes, bytes | None]:
        words = self.times_ms.tobytes(), self.fingerprints.tobytes()
        return self.ids, bytes(self.types), *words, None if self.rows is None else self.rows.tobytes()

    def columns(self) -> list[list[Any]]:
        given_columns = [self.ids, self.types, self.times_ms, self.fingerprints]
        return [list(column) for column in (given_columns if self.rows is None else [*given_columns, self.rows])]

    def extend(self, events: "_History", start: int, end: int, events_max: int) -> None:
        histories.extend_history(self, events.past(), start, end, events_max)


def extend_all(states: list[_History], events: _History, bounds: list[int], wanted: list[int]) -> None:
    histories.extend_histories(states, events.past(), np.array(bounds), np.array(wanted, np.uint8), 9)


@given(st.lists(st.tuples(st.lists(st.integers(0, 6), max_size=5), st.lists(st.integers(0, 6), max_size=5))))
def test_an_id_is_known_where_it_stands_twice(users: list[tuple[list[int], list[int]]]) -> None:
    known = np.full(len(users), 9, np.uint8)
    bounds = np.cumsum([0, *(len(came) for _, came in users)])
    came_to_all = np.array([one for _, came in users for one in came], np.uint64)
    histories.any_known(came_to_all, bounds, [array("Q", history) for history, _ in users], known)
    for (history, came), found in zip(users, known.tolist(), strict=True):
        given_ids = [one for one in came if one]
        assert found == (len(set(given_ids)) < len(given_ids) or not set(given_ids).isdisjoint(history))


@given(st.lists(st.lists(st.integers(-9, 9), max_size=7), min_size=1), st.integers(1, 9))
def test_the_newest_come_first(given_histories: list[list[int]], width: int) -> None:
    newest = np.full((len(given_histories), width), 77, np.int64)
    histories.newest_first([array("q", history) for history in given_histories], newest)
    for history, line in zip(given_histories, newest.tolist(), strict=True):
        assert line == [*history[::-1], *[0] * width][:width]


@pytest.mark.parametrize(
    "call",
    [
        lambda: histories.newest_first([array("Q")], np.zeros((1, 3), np.int64)),
        lambda: histories.any_known(np.zeros(0, np.uint64), np.array([0, 0]), [array("q")], np.zeros(1, np.uint8)),
    ],
)
def test_histories_of_other_numbers_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(TypeError):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: histories.newest_first([array("q")], np.zeros((2, 3), np.int64)),
        lambda: histories.any_known(np.zeros(2, np.uint64), np.array([0, 3]), [array("Q")], np.zeros(1, np.uint8)),
        lambda: histories.any_known(np.zeros(2, np.uint64), np.array([0, 1]), [], np.zeros(1, np.uint8)),
        lambda: extend_all([_History([], 0, True)], _History(["a"], 0, True), [0], [1]),
        lambda: extend_all([_History([], 0, True)], _History(["a"], 0, True), [0, 1], []),
        lambda: extend_all([_History([], 0, True)], _History(["a"], 0, True), [0, 2], [1]),
    ],
    ids=["lines", "bounds", "users", "states", "wanted", "events"],
)
def test_what_does_not_fit_the_histories_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"other|as many|no such"):
        call()


@given(IDS, IDS.filter(bool), st.booleans(), st.data())
def test_a_history_goes_on_and_forgets_its_oldest(
    before: list[str], added: list[str], with_rows: bool, data: st.DataObject
) -> None:
    history, events = _History(before, 0, with_rows), _History(added, 100, with_rows)
    start = data.draw(st.integers(0, len(added) - 1))
    end = data.draw(st.integers(start + 1, len(added)))
    events_max = data.draw(st.integers(max(len(before), 1), 20))
    expected = [
        (column + new[start:end])[-events_max:] for column, new in zip(history.columns(), events.columns(), strict=True)
    ]
    history.extend(events, start, end, events_max)
    assert history.columns() == expected


@given(st.lists(st.tuples(IDS, IDS.filter(bool), st.booleans()), max_size=4), st.booleans())
def test_histories_go_on_where_that_is_wanted(users: list[tuple[list[str], list[str], bool]], with_rows: bool) -> None:
    states = [_History(before, 10 * n, with_rows) for n, (before, _, _) in enumerate(users)]
    alone = [_History(before, 10 * n, with_rows) for n, (before, _, _) in enumerate(users)]
    events = _History([one for _, added, _ in users for one in added], 100, with_rows)
    bounds = np.cumsum([0, *(len(added) for _, added, _ in users)]).tolist()
    extend_all(states, events, bounds, [wanted for *_, wanted in users])
    for n, (state, expected) in enumerate(zip(states, alone, strict=True)):
        if users[n][2]:
            expected.extend(events, *bounds[n : n + 2], 9)
        assert state.columns() == expected.columns()


@pytest.mark.parametrize(("start", "end"), [(0, 0), (-1, 1), (1, 4)])
def test_events_that_there_are_not_are_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="no such events"):
        _History(["a"], 0, True).extend(_History(["b", "c", "d"], 3, True), start, end, 9)


def test_a_history_that_does_not_fit_together_is_refused_and_left_alone() -> None:
    events = _History(["x", "y"], 9, True)
    for name, wrong, error in [
        ("types", bytearray(1), ValueError),
        ("times_ms", array("q"), ValueError),
        ("fingerprints", array("Q", [1, 2, 3]), ValueError),
        ("rows", array("q", [1]), ValueError),
        ("times_ms", array("i", [1, 2]), TypeError),
    ]:
        history = _History(["a", "b"], 0, True)
        setattr(history, name, wrong)
        before = history.columns()
        with pytest.raises(error):
            history.extend(events, 0, 2, 9)
        assert history.columns() == before
    history, fewer_ids = _History(["a", "b"], 0, True), _History(["a", "b"], 0, True)
    fewer_ids.item_ids = b"a"
    of_other_lengths = _History(["x", "y"], 9, True)
    of_other_lengths.types = bytearray(1)
    for of_user, added, events_max, message in [
        (history, _History(["x", "y"], 9, False), 9, "given events with rows"),
        (fewer_ids, events, 3, "fewer ids than events"),  # one of them has to go
        (history, of_other_lengths, 9, "other lengths"),
    ]:
        before = of_user.columns()
        with pytest.raises(ValueError, match=message):
            of_user.extend(added, 0, 2, events_max)
        assert of_user.columns() == before


def test_a_history_at_whose_bytes_somebody_looks_is_refused_and_left_alone() -> None:
    history = _History(["a", "b"], 0, True)
    before = history.columns()
    with memoryview(history.types), pytest.raises(BufferError):
        history.extend(_History(["x", "y"], 9, True), 0, 2, 3)
    assert history.columns() == before


@pytest.mark.parametrize("events", [(), (["x"],)])
def test_events_without_all_their_columns_are_refused(events: Any) -> None:
    with pytest.raises(ValueError, match="unpack"):
        histories.extend_history(_History([], 0, True), events, 0, 1, 9)


@pytest.mark.parametrize("name", ["types", "item_ids"])
def test_a_history_without_a_column_is_refused(name: str) -> None:
    history: Any = _History([], 0, True)
    setattr(history, name, None)
    with pytest.raises(TypeError):
        histories.extend_history(history, _History(["x"], 9, True).past(), 0, 1, 9)

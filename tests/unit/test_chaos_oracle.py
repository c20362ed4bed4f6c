"""streams.chaos.oracle: states and lists that are right pass, and each kind of wrong one is found."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from streams.chaos.oracle import HISTORY, Oracle, Place

TOPICS = ("view", "click", "purchase")


class Found:
    """A state as the worker might have left it."""

    def __init__(self, steps: list[tuple[int, int, str]], fences: list[int], events: int, late: int = 0) -> None:
        self.steps = steps
        self.fences = fences
        self.events_count, self.late_count = events, late

    @property
    def history_times_ms(self) -> list[int]:
        return [step[0] for step in self.steps]

    @property
    def history_types(self) -> list[int]:
        return [step[1] for step in self.steps]

    @property
    def history_items(self) -> list[str]:
        return [step[2] for step in self.steps]


def _event(oracle: Oracle, offset: int, time_ms: int, item: str = "a", type_: int = 0, **more: Any) -> Place:
    place = Place(TOPICS[type_], 0, offset)
    oracle.add(place, json.dumps({"user_id": "u", "item_id": item, "timestamp": time_ms, **more}).encode())
    return place


def _oracle(*times_ms: int) -> Oracle:
    oracle = Oracle(TOPICS)
    for offset, time_ms in enumerate(times_ms):
        _event(oracle, offset, time_ms)
    return oracle


def _right() -> Found:
    return Found([(1, 0, "a"), (2, 0, "a"), (3, 0, "a")], [3, 0, 0, 0], 3)


def test_a_right_state_passes_in_whatever_order_its_events_came() -> None:
    verdict = _oracle(3, 1, 2).judge({"u": _right()}, late_allowed=False)
    assert verdict == (0, 0, [], 0)


@pytest.mark.parametrize(
    ("damage", "lost", "doubled"),
    [
        (lambda s: setattr(s, "events_count", 2), 1, 0),
        (lambda s: setattr(s, "events_count", 4), 0, 1),
        (lambda s: s.steps.pop(0), 0, 0),
        (lambda s: s.steps.reverse(), 0, 0),
        (lambda s: s.steps.__setitem__(1, (2, 0, "b")), 0, 0),
        (lambda s: s.fences.__setitem__(0, 2), 0, 0),
        (lambda s: s.fences.__setitem__(1, 1), 0, 0),
    ],
)
def test_a_wrong_state_is_found(damage: Callable[[Found], None], lost: int, doubled: int) -> None:
    found = _right()
    damage(found)
    verdict = _oracle(1, 2, 3).judge({"u": found}, late_allowed=False)
    assert (verdict.lost, verdict.doubled) == (lost, doubled)
    assert verdict.wrong
    assert all(problem.startswith("u: ") for problem in verdict.wrong)


def test_no_state_and_a_state_of_nobody_are_found() -> None:
    verdict = _oracle(1, 2).judge({"v": _right()}, late_allowed=False)
    assert verdict.lost == 2
    assert sorted(verdict.wrong) == ["u: no state", "v: a state of nobody"]


def test_late_events_count_and_may_be_forbidden() -> None:
    times = range(1, HISTORY + 2)
    oracle = _oracle(*times)
    steps = [(time_ms, 0, "a") for time_ms in times][1:]
    late = Found(steps, [HISTORY + 1, 0, 0, 0], HISTORY, 1)
    assert oracle.judge({"u": late}, late_allowed=True) == (0, 0, [], 1)
    assert oracle.judge({"u": late}, late_allowed=False).wrong == ["1 late events"]


def test_events_of_one_millisecond_may_be_in_any_order_but_must_be_there() -> None:
    oracle = Oracle(TOPICS)
    for offset, item in enumerate("abc"):
        _event(oracle, offset, 7, item)
    for items, problems in (("abc", 0), ("cab", 0), ("aab", 1)):
        found = Found([(7, 0, item) for item in items], [3, 0, 0, 0], 3)
        assert len(oracle.judge({"u": found}, late_allowed=False).wrong) == problems


def test_an_event_that_comes_twice_counts_once() -> None:
    oracle = Oracle(TOPICS)
    for offset in range(2):
        _event(oracle, offset, 5, event_id="e")
    once, twice = (Found([(5, 0, "a")] * n, [2, 0, 0, 0], n) for n in (1, 2))
    assert oracle.judge({"u": once}, late_allowed=False).wrong == []
    verdict = oracle.judge({"u": twice}, late_allowed=False)
    assert (verdict.doubled, len(verdict.wrong)) == (1, 2)


def _list(*places: Place, user: str = "u", key: bytes = b"u") -> tuple[bytes, bytes]:
    return key, json.dumps({"user_id": user, "caused_by": [place._asdict() for place in places]}).encode()


def test_lists_must_name_every_event_and_end_with_the_last() -> None:
    oracle = Oracle(TOPICS)
    first, second = _event(oracle, 0, 1), _event(oracle, 1, 2)
    third = _event(oracle, 0, 3, type_=2)
    assert oracle.list_problems([_list(first), _list(second, third)], in_order=True) == []
    assert oracle.list_problems([_list(first, third), _list(second)], in_order=False) == []
    wrong = [
        ([_list(first), _list(third)], "no list names"),
        ([_list(first, third), _list(second)], "the last list is caused by"),
        ([_list(first, second), _list(third, key=b"v")], "under key"),
        ([], "no list"),
    ]
    for lists, says in wrong:
        assert any(says in problem for problem in oracle.list_problems(lists, in_order=True)), says
    assert oracle.list_problems([_list(second, third), _list(first)], in_order=False) != []

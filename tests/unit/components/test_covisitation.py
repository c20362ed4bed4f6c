"""Co-visitation against counting by hand, its bound, and that batches change nothing."""

from collections import defaultdict

import numpy as np
import pytest

from models.components.covisitation import SPECS
from operators.candidates.component import Histories
from operators.candidates.covisitation import CoVisitation

from .tiny import ITEMS, drawn, users_of

UNIT = 4096


def counted(histories: Histories, window: int, decay: float) -> tuple[dict[tuple[int, int], float], dict[int, int]]:
    """Pairs and counts in plain Python; weights in whole units, as the module promises."""
    pairs: dict[tuple[int, int], float] = defaultdict(float)
    counts: dict[int, int] = defaultdict(int)
    for history in users_of(histories):
        for place, item in enumerate(history):
            counts[item] += 1
            for distance in range(1, min(window, place) + 1):
                pairs[history[place - distance], item] += round(UNIT * decay ** (distance - 1)) / UNIT
    return pairs, counts


@pytest.mark.parametrize("repeats", [False, True])
def test_scores_are_the_decayed_sums_of_the_pairs(repeats: bool) -> None:
    fitted, asked = drawn(1, repeats=repeats), drawn(2, repeats=repeats)
    component = CoVisitation(ITEMS, window_events=3, decay=0.7, from_power=0.9, to_power=0.3)
    component.fit(fitted)
    pairs, counts = counted(fitted, 3, 0.7)
    for history, line in zip(users_of(asked), component.scores(asked), strict=True):
        for item in range(1, ITEMS):
            expected = sum(
                0.7**age * pairs[before, item] / max(counts[before], 1) ** 0.9
                for age, before in enumerate(reversed(history[-3:]))
            )
            assert line[item] == pytest.approx(expected / max(counts[item], 1) ** 0.3, rel=1e-5)


@pytest.mark.parametrize("successors_max", [4, 512])
def test_one_event_at_a_time_or_many_gives_the_same(successors_max: int) -> None:
    histories = drawn(3, users=60, longest=30, repeats=True)
    at_once = CoVisitation(ITEMS, successors_max=successors_max)
    at_once.fit(histories)
    one_by_one = CoVisitation(ITEMS, successors_max=successors_max)
    starts = np.repeat(histories.offsets[:-1], histories.lengths)
    for n in np.argsort(histories.times_ms, kind="stable").tolist():
        one_by_one.update(histories.rows[starts[n] : n].tolist(), int(histories.rows[n]), 0)
    assert (at_once.counts == one_by_one.counts).all()
    for component in (at_once, one_by_one):  # places may differ, what is in them may not
        order = np.argsort(component.successors, axis=1)
        component.successors = np.take_along_axis(component.successors, order, 1)
        component.weights = np.take_along_axis(component.weights, order, 1)
    assert (at_once.successors == one_by_one.successors).all()
    assert (at_once.weights == one_by_one.weights).all()


def test_a_full_row_keeps_its_heavier_half_and_takes_newcomers() -> None:
    component = CoVisitation(20, window_events=1, successors_max=4)
    for successor in (2, 3, 3, 4, 4, 4, 5, 6):
        component.update([1], successor, 0)
    kept = {int(row) for row in component.successors[1] if row}
    assert kept == {3, 4, 6}
    assert component.used[1] == 3
    assert component.weights[1, :2].tolist() == [3 * UNIT, 2 * UNIT]


def test_items_outside_the_vocabulary_teach_nothing() -> None:
    component = CoVisitation(5)
    component.update([0, 2], 0, 0)
    component.update([0], 3, 0)
    assert not component.successors.any()
    assert component.counts.tolist() == [0, 0, 0, 1, 0]


def test_it_is_found() -> None:
    assert SPECS[0].name == "co-visitation"

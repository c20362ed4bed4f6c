"""The popularity component counts, and forgets by its half-life."""

import numpy as np
import pytest

from models.components.popularity import PopularItems

from .tiny import ITEMS, drawn, users_of


def test_plain_counts_relative_to_the_most_popular() -> None:
    histories = drawn(1, repeats=True)
    component = PopularItems(ITEMS)
    component.fit(histories)
    counts = np.bincount(histories.rows, minlength=ITEMS)
    for line in component.scores(drawn(2)):
        assert line == pytest.approx(counts / counts.max())


def test_an_event_weighs_half_for_every_half_life() -> None:
    histories = drawn(1, repeats=True)
    component = PopularItems(ITEMS, half_life_ms=3)
    component.fit(histories)
    weights = np.zeros(ITEMS)
    for history in users_of(histories):
        for age, item in enumerate(reversed(history)):
            weights[item] += 0.5 ** ((age + 1) / 3)
    assert component.scores(histories)[0] == pytest.approx(weights / weights.max(), rel=1e-5)


def test_it_learns_event_by_event() -> None:
    component = PopularItems(ITEMS)
    component.update([], 4, 0)
    component.update([], 4, 1)
    component.update([], 2, 2)
    assert component.scores(drawn(1))[0][[2, 4]].tolist() == [0.5, 1.0]

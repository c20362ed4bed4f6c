"""Item-item neighbours against cosines computed by hand."""

import numpy as np
import pytest

from models.components.item_item import ItemItem

from .tiny import ITEMS, drawn, users_of


def test_scores_are_the_decayed_sums_of_cosines() -> None:
    fitted, asked = drawn(1), drawn(2)
    component = ItemItem(ITEMS, neighbours=ITEMS, decay=0.5)
    component.fit(fitted)
    matrix = np.array([[item in history for item in range(ITEMS)] for history in users_of(fitted)], float)
    lengths = np.maximum(np.sqrt((matrix**2).sum(axis=0)), 1e-12)
    cosines = (matrix / lengths).T @ (matrix / lengths)
    for history, line in zip(users_of(asked), component.scores(asked), strict=True):
        expected = sum(0.5**age * cosines[item] for age, item in enumerate(reversed(history)))
        assert line == pytest.approx(expected, abs=1e-5)


def test_only_the_nearest_neighbours_count() -> None:
    component = ItemItem(ITEMS, neighbours=3)
    component.fit(drawn(1))
    assert np.diff(component.similarity.indptr).max() == 3

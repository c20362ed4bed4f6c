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


def test_bm25_weighs_rare_users_and_short_histories_up() -> None:
    """Robertson and Walker's weight, with an item as the document and a user as the term."""
    fitted, asked = drawn(1), drawn(2)
    component = ItemItem(ITEMS, weighting="bm25", neighbours=ITEMS)
    component.fit(fitted)
    counts = np.array([[item in history for item in range(ITEMS)] for history in users_of(fitted)], float).T
    lengths = counts.sum(axis=1)
    rarity = np.log(ITEMS) - np.log1p(counts.sum(axis=0))
    saturated = counts * 2.2 / (1.2 * (0.25 + 0.75 * lengths / lengths.mean())[:, None] + counts)
    weighted = saturated * rarity
    similar = weighted @ weighted.T
    for history, line in zip(users_of(asked), component.scores(asked), strict=True):
        assert line == pytest.approx(similar[history].sum(axis=0), rel=1e-4, abs=1e-4)


def test_only_the_nearest_neighbours_count() -> None:
    component = ItemItem(ITEMS, neighbours=3)
    component.fit(drawn(1))
    assert np.diff(component.similarity.indptr).max() == 3

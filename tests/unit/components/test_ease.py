"""EASE against the regressions that its closed form solves."""

import numpy as np
import pytest

from models.components.ease import Ease

from .tiny import ITEMS, drawn, users_of


def test_every_column_is_the_ridge_regression_of_an_item_on_all_others() -> None:
    fitted = drawn(1)
    component = Ease(ITEMS, l2=2.0)
    component.fit(fitted)
    x = np.array([[item in history for item in range(ITEMS)] for history in users_of(fitted)], float)
    assert component.weights is not None
    for item in range(1, ITEMS):
        others = [row for row in range(ITEMS) if row != item]
        a = x[:, others]
        expected = np.linalg.solve(a.T @ a + 2.0 * np.eye(ITEMS - 1), a.T @ x[:, item])
        assert component.weights[others, item] == pytest.approx(expected, abs=1e-4)
        assert component.weights[item, item] == 0


def test_a_history_is_asked_with_its_recency() -> None:
    fitted, asked = drawn(1), drawn(2)
    component = Ease(ITEMS, decay=0.5)
    component.fit(fitted)
    assert component.weights is not None
    for history, line in zip(users_of(asked), component.scores(asked), strict=True):
        expected = sum(0.5**age * component.weights[item] for age, item in enumerate(reversed(history)))
        assert line == pytest.approx(expected, abs=1e-5)

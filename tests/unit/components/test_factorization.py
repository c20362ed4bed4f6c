"""Folding in a user solves the least squares of Hu, Koren and Volinsky."""

import numpy as np
import pytest

from models.components.factorization import Factorization

from .tiny import ITEMS, drawn, users_of


def test_a_users_factors_are_solved_from_the_decayed_history() -> None:
    fitted, asked = drawn(1, users=40), drawn(2)
    component = Factorization(ITEMS, factors=4, l2=0.1, confidence=3.0, decay=0.8)
    component.fit(fitted)
    items = np.asarray(component.model.item_factors, np.float64)
    for history, line in zip(users_of(asked), component.scores(asked), strict=True):
        confidence = np.ones(ITEMS)
        for age, item in enumerate(reversed(history)):
            confidence[item] = 3.0 * 0.8**age
        a = items.T @ (confidence[:, None] * items) + 0.1 * np.eye(4)
        b = items.T @ (confidence * np.isin(np.arange(ITEMS), history))
        assert line == pytest.approx(items @ np.linalg.solve(a, b), abs=1e-3)


def test_a_seed_gives_the_same_factors_again() -> None:
    fitted, asked = drawn(1), drawn(2)
    runs = []
    for seed in (0, 0, 1):
        component = Factorization(ITEMS, factors=4, seed=seed)
        component.fit(fitted)
        runs.append(component.scores(asked))
    assert (runs[0] == runs[1]).all()
    assert not np.allclose(runs[0], runs[2], atol=1e-6)

"""User-user neighbours against a loop over all pairs of users."""

import numpy as np
import pytest

from models.components.user_user import UserUser

from .tiny import ITEMS, drawn, users_of


def decayed(history: list[int], decay: float) -> np.ndarray:
    weights = np.zeros(ITEMS)
    for age, item in enumerate(reversed(history)):
        weights[item] = max(weights[item], decay**age)
    return weights


@pytest.mark.parametrize("repeats", [False, True])
def test_scores_are_what_the_nearest_users_did(repeats: bool) -> None:
    fitted, asked = drawn(1, repeats=repeats), drawn(2, repeats=repeats)
    component = UserUser(ITEMS, neighbours=5, decay=0.9, neighbour_decay=0.8)
    component.fit(fitted)
    others = users_of(fitted)
    vectors = [decayed(history, 0.9) for history in others]
    for history, line in zip(users_of(asked), component.scores(asked), strict=True):
        mine = decayed(history, 0.9)
        cosines = np.array([mine @ v / np.linalg.norm(mine) / np.linalg.norm(v) for v in vectors])
        nearest = np.argsort(-np.round(cosines, 6), kind="stable")[:5]
        expected = sum(cosines[n] * decayed(others[n], 0.8) for n in nearest)
        assert line == pytest.approx(expected, abs=1e-5)

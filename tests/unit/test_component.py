"""operators.candidates.component: histories as columns, and the best rows of a score."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.candidates.component import Component, Histories, top_rows


def test_histories_from_lists() -> None:
    histories = Histories.of([[3, 1], [], [2, 2, 5]])
    assert histories.users == 3
    assert histories.lengths.tolist() == [2, 0, 3]
    assert histories.user_of_event.tolist() == [0, 0, 2, 2, 2]
    assert histories.age_events.tolist() == [1, 0, 2, 1, 0]
    assert histories.times_ms.tolist() == [-2, -1, -3, -2, -1]
    assert Histories.of([]).users == 0


def test_parts_of_histories() -> None:
    histories = Histories.of([[3, 1], [], [2, 2, 5], [4]])
    assert histories.between(1, 3).rows.tolist() == [2, 2, 5]
    assert histories.between(1, 3).offsets.tolist() == [0, 0, 3]
    assert histories.chosen(np.array([3, 0])).rows.tolist() == [4, 3, 1]
    assert histories.chosen(np.array([3, 0])).offsets.tolist() == [0, 1, 3]
    shorter = histories.without_last(2)
    assert shorter.rows.tolist() == [2]
    assert shorter.offsets.tolist() == [0, 0, 0, 1, 1]


def test_newest_and_what_came_before() -> None:
    histories = Histories.of([[3, 1], [], [2, 7, 5]])
    assert histories.newest(2).tolist() == [[1, 3], [0, 0], [5, 7]]
    assert histories.newest(4)[2].tolist() == [5, 7, 2, 0]
    assert histories.before(np.array([0, 1, 2, 4]), 2).tolist() == [[0, 0], [3, 0], [0, 0], [7, 2]]
    assert Histories.of([[], []]).newest(2).tolist() == [[0, 0], [0, 0]]


class Fixed(Component):
    def fit(self, histories: Histories) -> None: ...

    def scores(self, users: Histories) -> np.ndarray:
        return np.tile(np.array([9, 1, 3, 3, 2], np.float32), (users.users, 1))


def test_candidates_are_the_best_rows_without_row_0() -> None:
    found = Fixed().candidates(Histories.of([[1], [2]]), 3)
    assert found.rows.tolist() == [[2, 3, 4]] * 2
    assert found.scores.tolist() == [[3, 3, 2]] * 2


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([1, 2, 5, 1_000]), st.data())
def test_the_best_columns_are_those_of_a_stable_sort(seed: int, columns: int, values: int, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, values, (7, columns)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    k = data.draw(st.integers(1, columns))
    assert top_rows(scores, k).tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :k].tolist()

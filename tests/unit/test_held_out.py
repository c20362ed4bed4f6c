"""models.held_out: the leave-one-out split and its ranks, against sorting by hand."""

from pathlib import Path

import numpy as np
import pytest

from models.held_out import ranks_of, read_leave_one_out
from models.metrics import bootstrap_interval, gains
from operators.candidates.component import Histories


def test_the_split_is_by_place(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("7 1 2 3 4\n9 5 1 2\n")
    data = read_leave_one_out(path)
    assert data.items == 6
    assert data.whole.users == 2
    assert data.targets("test").tolist() == [4, 2]
    assert data.targets("validation").tolist() == [3, 1]
    assert data.before("test").rows.tolist() == [1, 2, 3, 5, 1]
    assert data.before("validation").rows.tolist() == [1, 2, 5]
    assert data.train("test").rows.tolist() == [1, 2, 5]
    assert data.train("test", refit=True).rows.tolist() == [1, 2, 3, 5, 1]
    assert data.train("validation", refit=True).rows.tolist() == [1, 2, 5]


def test_ranks_are_those_of_a_sort_with_ties_in_the_middle() -> None:
    rng = np.random.default_rng(0)
    users = Histories.of([[1, 4], [2], [], [5, 3, 1]])
    targets = np.array([2, 1, 6, 2])
    for _ in range(50):
        scores = rng.integers(0, 4, (4, 8)).astype(np.float32)
        expected = []
        for n, history in enumerate(([1, 4], [2], [], [5, 3, 1])):
            others = [scores[n, i] for i in range(1, 8) if i not in history and i != targets[n]]
            aim = scores[n, targets[n]]
            expected.append(1 + sum(s > aim for s in others) + sum(s == aim for s in others) / 2)
        assert ranks_of(lambda part, s=scores: s[: part.users].copy(), users, targets).tolist() == expected


def test_a_constant_score_gains_nothing_and_no_number_is_refused() -> None:
    users, targets = Histories.of([[1]]), np.array([2])
    assert ranks_of(lambda _: np.zeros((1, 101), np.float32), users, targets).tolist() == [50.0]
    with pytest.raises(ValueError, match="not a number"):
        ranks_of(lambda _: np.full((1, 101), np.nan, np.float32), users, targets)


def test_gains_of_ranks() -> None:
    assert gains(np.array([1.0, 3.0, 10.0, 10.5, 11.0]), 10) == pytest.approx([1, 0.5, 1 / np.log2(11), 0, 0])


def test_the_interval_of_a_mean_holds_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    drawn = [bootstrap_interval(rng.binomial(1, 0.3, 200).astype(float), rounds=300, seed=n) for n in range(200)]
    assert 0.90 < np.mean([low <= 0.3 <= high for low, high in drawn]) < 0.99

from pathlib import Path

import numpy as np
import pytest

from models.errors import ModelError
from models.leave_one_out import read_histories, score_users, target_ranks


def test_file_to_splits(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("7 5 3 2 9\n8 3 3 1\n")
    data = read_histories(tmp_path / "f.txt")
    assert data.users == ["7", "8"]
    assert data.items == ["", *map(str, range(1, 10))]
    assert data.rows[data.ends("test")].tolist() == [9, 1]
    assert data.rows[data.ends("validation")].tolist() == [2, 3]
    assert data.lengths().tolist() == [4, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"f.txt is empty"),
        ("1 2 3 4\n2 5 6\n", r"f.txt, line 2 is not a user and 3 or more item numbers"),
        ("1 2 3 4\n\n", r"line 2"),
        ("1 2 3 x\n", r"line 1"),
        ("1 2 3 0\n", r"line 1"),
        ("1 2 3 99999999999\n", r"line 1"),
    ],
)
def test_bad_files_say_which_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "f.txt").write_text(text)
    with pytest.raises(ModelError, match=message):
        read_histories(tmp_path / "f.txt")
    with pytest.raises(ModelError, match="cannot read"):
        read_histories(tmp_path / "other.txt")


def test_ranks_by_counting_one_user_at_a_time() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, 30)).astype(np.float32)  # many ties
    targets = rng.integers(1, 30, 40)
    histories = [rng.integers(1, 30, rng.integers(0, 12)) for _ in range(40)]
    expected = []
    for line, target, history in zip(scores, targets, histories, strict=True):
        rivals = [line[i] for i in range(1, 30) if i != target and i not in set(history.tolist())]
        above, level = sum(s > line[target] for s in rivals), sum(s == line[target] for s in rivals)
        expected.append(1 + above + level / 2)
    assert target_ranks(scores.copy(), targets, histories).tolist() == expected


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        target_ranks(np.array([[0, np.nan]], np.float32), np.array([1]), [np.array([], np.int64)])


def test_each_split_is_scored_from_what_came_before_its_target(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text(
        "".join(f"{u} {1 + u % 5} {6 + u % 3} {9 + u % 4} {13 + u % 2}\n" for u in range(60))
    )
    data = read_histories(tmp_path / "f.txt")
    for split, end in (("validation", -2), ("test", -1)):

        def knows(users: np.ndarray, back: int = end) -> np.ndarray:
            scores = np.zeros((len(users), 15), np.float32)
            for line, user in enumerate(users):
                history = data.rows[: data.offsets[user + 1]]
                scores[line, history[back]] = 1  # the target
                scores[line, history[:back][-1]] = 2  # the event before it: excluded
            return scores

        found = score_users(data, split, knows)
        assert (found.ndcg, found.hit_rate, found.baskets) == (1.0, 1.0, 60)


def test_scores_by_hand(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("1 3 5 2 4\n")
    low_first = score_users(read_histories(tmp_path / "f.txt"), "test", lambda _: -np.arange(6, dtype=np.float32)[None])
    assert low_first.ndcg == pytest.approx(1 / np.log2(3))  # 1 before 4; 2, 3 and 5 are history

import math

import numpy as np
import pytest

from models.baselines import personal_frequency, popularity
from models.dataset import Sequences
from models.metrics import rank_scores


def rows(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_rank_scores_by_hand() -> None:
    ranked = np.array([[5, 7, 9], [1, 2, 3], [4, 8, 6]])
    scores = rank_scores(ranked, [rows(7, 9), rows(4), rows(4, 5, 6, 7)])
    # basket 1: hits at ranks 2 and 3 of two targets; basket 2: none; basket 3: ranks 1 and 3 of four targets
    first = (1 / math.log2(3) + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    third = (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3) + 1 / math.log2(4))
    assert scores.ndcg == pytest.approx((first + 0 + third) / 3)
    assert scores.hit_rate == pytest.approx(2 / 3)
    assert scores.recall == pytest.approx((1 + 0 + 0.5) / 3)
    assert scores.baskets == 3


def test_an_ideal_list_scores_one_however_many_targets_there_are() -> None:
    ranked = np.array([[3, 2, 1]])
    for targets in (rows(3), rows(2, 3), rows(1, 2, 3), rows(1, 2, 3, 4, 5)):
        assert rank_scores(ranked, [targets]).ndcg == pytest.approx(1)
    assert rank_scores(ranked, [rows(1, 2, 3, 4, 5)]).recall == pytest.approx(0.6)


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 lists against 0 baskets"):
        rank_scores(np.empty((0, 3), np.int64), [])
    with pytest.raises(ValueError, match="1 lists against 2 baskets"):
        rank_scores(np.array([[1]]), [rows(1), rows(1)])


def test_popularity_counts_only_before_the_time() -> None:
    events = Sequences(
        offsets=rows(0, 6),
        rows=rows(1, 1, 2, 0, 2, 2),
        gaps=rows(0, 1, 1, 1, 1, 1),
        timestamp_ms=rows(0, 1, 2, 3, 4, 5),
        basket_start=np.ones(6, np.bool_),
    )
    assert popularity(events, 4, 4).tolist() == [0, 1, 0.5, 0]
    assert popularity(events, 4, 6).tolist() == pytest.approx([0, 2 / 3, 1, 0])


def test_personal_frequency_orders_by_count_then_recency_then_popularity() -> None:
    popular = np.array([0, 0.2, 0.9, 1.0, 0.1, 0.5], np.float32)
    scores = personal_frequency(rows(4, 1, 4, 2, 1), popular)
    # twice each: 1 (last) before 4; once: 2; never bought: 3 and 5 by popularity
    assert np.argsort(-scores)[:5].tolist() == [1, 4, 2, 3, 5]

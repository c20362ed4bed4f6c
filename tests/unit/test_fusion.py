"""models.fusion: what is brought to one scale, what is learned, and that fusing helps where components differ."""

from dataclasses import dataclass

import numpy as np
import pytest

from models.fusion import Examples, Fusion, learn_weights, standardised
from models.held_out import ranks_of
from operators.candidates.component import Component, Histories

ITEMS = 40


@dataclass
class Noisy(Component):
    """Scores the wanted item of each user higher, for the users it knows about."""

    wanted: np.ndarray
    strength: np.ndarray
    scale: float
    seed: int

    def fit(self, histories: Histories) -> None: ...

    def scores(self, users: Histories) -> np.ndarray:
        scores = np.random.default_rng(self.seed).standard_normal((users.users, ITEMS)).astype(np.float32)
        scores[np.arange(users.users), self.wanted] += self.strength
        return self.scale * scores


def drawn(users: int = 250) -> tuple[Histories, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.choice([1, 20], users)
    histories = [(1 + rng.permutation(ITEMS - 1))[: n + 1].tolist() for n in lengths]
    return Histories.of([history[1:] for history in histories]), np.array([history[0] for history in histories])


def test_standardised_scores_of_the_items_outside_the_history() -> None:
    users = Histories.of([[1, 3], [2]])
    scores = np.random.default_rng(0).standard_normal((2, 7)).astype(np.float32) * 100 + 5
    scores[0, 6] = -np.inf
    for given, line, shown in zip(scores, standardised(scores, users), ([2, 4, 5], [1, 3, 4, 5, 6]), strict=True):
        finite = np.isfinite(given) & (np.arange(7) > 0)
        assert not line[~finite].any()
        assert line[finite] == pytest.approx((given[finite] - given[shown].mean()) / given[shown].std(), abs=1e-5)
    same = np.full((2, 7), 3, np.float32)
    same[0, 1] = 9  # in the history, and nothing to measure it by
    assert not standardised(same, users).any()


def test_learned_weights_find_who_knows_which_users_whatever_the_scale() -> None:
    users, targets = drawn()
    short = users.lengths < 5
    components = [
        Noisy(targets, np.where(short, 3.0, 0.0), 1000.0, 1),
        Noisy(targets, np.where(short, 0.0, 3.0), 0.01, 2),
        Noisy(targets, np.zeros(len(targets)), 1.0, 3),
    ]
    blank = Fusion(components, np.zeros(6, np.float32))
    fused = Fusion(components, learn_weights(blank.examples(users, targets)))
    hits = [(ranks_of(c.scores, users, targets) <= 5).mean() for c in (*components, fused)]
    assert hits[3] > max(hits[:3]) + 0.1
    known, other = fused.weights[:4].reshape(2, 2)
    assert known[1] < 0 < other[1]  # the one falls with the length of the history, the other grows


def test_the_weights_start_where_the_targets_are_likeliest() -> None:
    """With one feature every positive weight ranks alike, so that coordinate ascent has nothing to climb."""
    rng = np.random.default_rng(0)
    users, width = 200, 12
    features = rng.standard_normal((users, width)) * 5
    chosen = (0.3 * features + rng.gumbel(size=features.shape)).argmax(axis=1)  # a softmax of weight 0.3
    is_target = np.arange(width) == chosen[:, None]
    examples = Examples(
        np.arange(0, users * width + 1, width), features.reshape(-1, 1).astype(np.float32), is_target.ravel()
    )

    def loss(weight: float) -> float:
        logits = weight * features
        in_spreads = weight * features.std()
        return float(np.log(np.exp(logits).sum(axis=1)).sum() - logits[is_target].sum() + in_spreads**2 / 2)

    grid = np.arange(0.1, 0.6, 0.001)
    best = grid[np.argmin([loss(weight) for weight in grid])]
    assert learn_weights(examples)[0] == pytest.approx(best, abs=0.002)
    assert 0.25 < best < 0.35


def test_targets_that_nobody_finds_teach_nothing() -> None:
    """Most targets stand below all candidates; low scores must not become a merit by that."""
    rng = np.random.default_rng(5)
    users, items = 250, 600
    scores = rng.standard_normal((users, items)).astype(np.float32)
    targets = rng.integers(1, items, users)
    known = rng.random(users) < 0.3
    scores[np.arange(users), targets] = np.where(known, 2.5, -3.0)

    class Fixed(Noisy):
        def scores(self, users: Histories) -> np.ndarray:
            return scores

    asked = Histories.of([[] for _ in range(users)])
    component = Fixed(targets, np.zeros(users), 1.0, 0)
    examples = Fusion([component], np.zeros(2, np.float32)).examples(asked, targets)
    assert examples.is_target.sum() == len(examples.offsets) - 1 == known.sum()
    assert (np.diff(examples.offsets) == 100).all()
    fused = Fusion([component], learn_weights(examples))
    alone = ranks_of(component.scores, asked, targets)
    assert (ranks_of(fused.scores, asked, targets) == alone).all()


def test_one_component_alone_ranks_as_it_would_without_fusion() -> None:
    users, targets = drawn()
    component = Noisy(targets, np.full(len(targets), 2.0), 1.0, 1)
    fused = Fusion([component], np.array([0.7, 0.0], np.float32))
    same = ranks_of(component.scores, users, targets) == ranks_of(fused.scores, users, targets)
    assert same.all()


def test_a_target_that_is_in_the_history_is_ranked_and_learned_from_like_any_other() -> None:
    """Scores of the history's items alone: the wanted one is far above what else is asked about."""
    users, targets = Histories.of([[1, 2, 3]] * 9), np.array([1, 2, 3] * 3)
    component = Noisy(targets, np.full(9, 9.0), 1.0, 1)
    blank = Fusion([component], np.array([1.0, 0.0], np.float32))
    assert (ranks_of(component.scores, users, targets) == 1).all()
    assert (ranks_of(blank.scores, users, targets) == 1).all()
    examples = blank.examples(users, targets)
    assert np.diff(examples.offsets).tolist() == [ITEMS - 1 - 2] * 9
    assert examples.is_target.sum() == 9
    assert examples.ndcg(examples.features[:, 0]) == 1.0


def test_examples_hold_every_target_once_and_nothing_of_the_history() -> None:
    users, targets = drawn(20)
    examples = Fusion([Noisy(targets, np.zeros(20), 1.0, 1)], np.zeros(2, np.float32)).examples(users, targets)
    assert np.add.reduceat(examples.is_target.astype(int), examples.offsets[:-1]).tolist() == [1] * 20
    assert np.diff(examples.offsets).tolist() == [ITEMS - 1 - n for n in users.lengths.tolist()]


def test_ndcg_of_examples_counts_ties_half() -> None:
    examples = Examples(np.array([0, 3, 5]), np.zeros((5, 1), np.float32), np.array([0, 1, 0, 1, 0], np.bool_))
    scores = np.array([1.0, 1.0, 0.0, 5.0, 2.0], np.float32)
    assert examples.ndcg(scores) == pytest.approx((1 / np.log2(2.5) + 1) / 2)

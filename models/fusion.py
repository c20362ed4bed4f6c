"""Fusion: one score from any set of components, with weights learned on the validation targets only.

A component's score is brought to one scale within each user's list; the fused score is their weighted sum. A weight
has a constant part and one that grows with the logarithm of the history's length: co-visitation knows a newcomer's
last item, an encoder needs a history.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.metrics import gains
from operators.candidates.component import Component, Histories, top_rows
from operators.interest import OUT_OF_VOCABULARY

__all__ = ["Examples", "Fusion", "learn_weights", "standardised"]

CANDIDATES: Final = 100
"""Best items of each component among which a user's target has to be found."""
L2: Final = 1.0
LIST_ITEMS: Final = 10
ASCENT_STEPS: Final = (0.5, 0.5, 0.25, 0.25, 0.1, 0.1)
"""In units of the greatest weight."""
ASCENT_MIN: Final = 1e-4
"""Least NDCG@10 that a step must bring: a smaller gain is noise of the validation users."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Validation targets among the candidates of any component: user u owns ``offsets[u]:offsets[u + 1]``."""

    offsets: NDArray[np.int64]
    features: NDArray[np.float32]
    """(n, F)"""
    is_target: NDArray[np.bool_]
    """(n,) true once for each user"""

    @property
    def user_of_line(self) -> NDArray[np.int64]:
        """(n,)"""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def ndcg(self, scores: NDArray[np.float32]) -> float:
        """Mean NDCG@10 of the targets by ``scores`` (n,)."""
        aim = scores[self.is_target][self.user_of_line]
        above = np.add.reduceat((scores > aim).astype(np.float64), self.offsets[:-1])
        level = np.add.reduceat((scores == aim).astype(np.float64), self.offsets[:-1])
        return float(gains(above + (level + 1) / 2, LIST_ITEMS).mean())

    @classmethod
    def joined(cls, parts: "Sequence[Examples]") -> "Examples":
        """All users of all parts."""
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(
            np.r_[0, np.cumsum(lengths)].astype(np.int64),
            np.concatenate([part.features for part in parts]),
            np.concatenate([part.is_target for part in parts]),
        )


@dataclass
class Fusion(Component):
    """The weighted sum of fitted components; ``weights`` (2C,) as ``learn_weights`` gives them."""

    components: Sequence[Component]
    weights: NDArray[np.float32]

    def fit(self, histories: Histories) -> None:
        for component in self.components:
            component.fit(histories)

    def scores(self, users: Histories) -> NDArray[np.float32]:
        length = _length(users)
        fused = np.zeros((users.users, 1), np.float32)
        for component, (flat, growing) in zip(self.components, self.weights.reshape(-1, 2), strict=True):
            fused = fused + standardised(component.scores(users), users) * (flat + growing * length)[:, None]
        return fused

    def examples(self, users: Histories, targets: NDArray[np.int64]) -> Examples:
        """What the weights are learned from: the candidates of each user whose target (P,) is among them.

        A target that no component has among its best would stand out by its low scores, and teach that low is good.
        """
        features = [standardised(component.scores(users), users) for component in self.components]
        lines = np.arange(users.users)
        hidden = np.zeros(features[0].shape, np.bool_)
        hidden[users.user_of_event, users.rows] = True
        hidden[lines, targets] = False  # one that is in the history (a repeat) is ranked all the same
        wanted = np.zeros(hidden.shape, np.bool_)
        for feature in features:
            shown = np.where(hidden, np.float32(0), feature)
            wanted[lines[:, None], top_rows(shown, min(CANDIDATES, shown.shape[1]))] = True
        wanted[hidden] = False
        wanted[:, OUT_OF_VOCABULARY] = False
        found = wanted[lines, targets]
        wanted[~found] = False
        line, row = np.nonzero(wanted)
        length = _length(users)[line]
        columns = [column for f in features for column in (f[line, row], f[line, row] * length)]
        return Examples(
            np.r_[0, np.cumsum(wanted.sum(axis=1)[found])].astype(np.int64),
            np.stack(columns, axis=1).astype(np.float32),
            row == targets[line],
        )


def standardised(scores: NDArray[np.float32], users: Histories) -> NDArray[np.float32]:
    """Scores (P, N) in standard deviations from the user's mean, both of the items outside the history.

    0 where a score is not finite, and for a user all of whose items outside the history score the same.
    """
    blank = ~np.isfinite(scores)
    blank[:, OUT_OF_VOCABULARY] = True
    hidden = blank.copy()
    hidden[users.user_of_event, users.rows] = True
    counts = np.maximum((~hidden).sum(axis=1, keepdims=True), 1)
    mean = np.where(hidden, np.float32(0), scores).sum(axis=1, keepdims=True) / counts
    centred = np.where(blank, np.float32(0), scores) - mean
    outside = np.where(hidden, np.float32(0), centred)
    spread = np.sqrt((outside * outside).sum(axis=1, keepdims=True) / counts)
    scale = np.where(spread > 0, np.maximum(spread, 1e-12), np.inf)
    return np.where(blank, np.float32(0), centred / scale).astype(np.float32)


def learn_weights(examples: Examples) -> NDArray[np.float32]:
    """(F,) weights: the softmax of greatest likelihood, then coordinate ascent on NDCG@10 from there.

    The likelihood is convex and needs no start, but counts every rank; the lists are judged by their first ten, where
    coordinate ascent (Metzler and Croft, Information Retrieval 2007) looks for what it gave away.
    """
    spread = np.maximum(examples.features.std(axis=0), 1e-6)
    scaled = Examples(examples.offsets, examples.features / spread, examples.is_target)
    return (_ascended(scaled, _likeliest(scaled)) / spread).astype(np.float32)


def _likeliest(examples: Examples) -> NDArray[np.float32]:
    x, starts, targets = examples.features, examples.offsets[:-1], np.flatnonzero(examples.is_target)
    user = examples.user_of_line

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = x @ weights.astype(np.float32)
        logits -= np.maximum.reduceat(logits, starts)[user]
        shares = np.exp(logits)
        totals = np.add.reduceat(shares, starts)
        shares /= totals[user]
        value = np.log(totals).sum() - logits[targets].sum() + L2 / 2 * weights @ weights
        gradient = x.T @ shares - x[targets].sum(axis=0) + L2 * weights
        return float(value) / len(starts), gradient.astype(np.float64) / len(starts)

    optimize: Any = importlib.import_module("scipy.optimize")  # it declares only a part of its types
    found = optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 100})
    return np.asarray(found.x, np.float32)


def _ascended(examples: Examples, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    scores = examples.features @ weights
    best = examples.ndcg(scores)
    size = float(np.abs(weights).max())
    for share in ASCENT_STEPS:
        for feature, sign in product(range(len(weights)), (-1.0, 1.0)):
            step = np.float32(sign * share * size)
            tried = (scores + step * examples.features[:, feature]).astype(np.float32)
            found = examples.ndcg(tried)
            if found > best + ASCENT_MIN:
                best, scores = found, tried
                weights = weights.copy()
                weights[feature] += step
    return weights


def _length(users: Histories) -> NDArray[np.float32]:
    """(U,) logarithm of the history's length, -1 to about 2."""
    return (np.log1p(users.lengths) / np.log(10) - 1).astype(np.float32)

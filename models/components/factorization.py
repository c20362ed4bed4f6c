"""Matrix factorization: alternating least squares on implicit feedback (`implicit`), new users folded in."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.fitted import Setting, Spec, decayed, history_matrix
from operators.candidates.component import Component, Histories

__all__ = ["SPECS", "Factorization"]


@dataclass
class Factorization(Component):
    """Hu, Koren and Volinsky, ICDM 2008. A user's factors are solved from the history, of
    confidence ``confidence * decay**age``."""

    items: int
    factors: int = 64
    l2: float = 0.05
    confidence: float = 5.0
    iterations: int = 10
    decay: float = 1.0
    seed: int = 0
    model: Any = None

    def fit(self, histories: Histories) -> None:
        self.model = AlternatingLeastSquares(
            factors=self.factors,
            regularization=self.l2,
            alpha=self.confidence,
            iterations=self.iterations,
            num_threads=1,
            random_state=self.seed,
        )
        with threadpool_limits(1, "blas"):  # its own threads fight with those of BLAS
            self.model.fit(history_matrix(histories, self.items), show_progress=False)

    def scores(self, users: Histories) -> NDArray[np.float32]:
        asked = history_matrix(users, self.items, decayed(users, self.decay))
        of_users = self.model.recalculate_user(np.arange(users.users), asked)
        return np.asarray(of_users @ self.model.item_factors.T, np.float32)


def _build(setting: Setting) -> Factorization:
    return Factorization(setting.items, seed=setting.seed)


SPECS: Final = (
    Spec(
        "matrix-factorization",
        _build,
        fitting=[{"confidence": confidence} for confidence in (2.0, 6.0)],
        scoring=[{"decay": decay} for decay in (1.0, 0.9, 0.8, 0.7)],
        seeded=True,
    ),
)

"""EASE: the linear item model with a closed form (Steck, WWW 2019), asked with a whole or a decayed history."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from models.errors import ModelError
from models.fitted import Setting, Spec, decayed, history_matrix
from operators.candidates.component import Component, Histories

__all__ = ["SPECS", "Ease"]


@dataclass
class Ease(Component):
    """``scores = X B`` with ``B = I - P / diag(P)`` and ``P = (X'X + l2 I)**-1``; X is asked as ``decay**age``."""

    items: int
    l2: float = 300.0
    decay: float = 1.0
    weights: NDArray[np.float32] | None = None
    """B (N, N) with a zero diagonal, once fitted"""

    def fit(self, histories: Histories) -> None:
        x = history_matrix(histories, self.items)
        gram = np.asfortranarray((x.T @ x).toarray(), np.float32)
        gram[np.diag_indices(self.items)] += self.l2
        inverse = _inverse(gram)
        inverse /= -np.diag(inverse)
        np.fill_diagonal(inverse, 0)
        self.weights = np.ascontiguousarray(inverse)

    def scores(self, users: Histories) -> NDArray[np.float32]:
        asked = history_matrix(users, self.items, decayed(users, self.decay))
        return np.asarray(asked @ self.weights, np.float32)


def _inverse(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of a positive definite matrix, in its place: half the work and a third of the memory of a general inverse."""
    routines: Any = lapack
    factor, failed = routines.spotrf(matrix, lower=0, overwrite_a=1)
    if failed:
        raise ModelError("EASE: the matrix of the histories is singular; raise l2")
    inverse, _ = routines.spotri(factor, lower=0, overwrite_c=1)
    upper = np.triu(inverse)
    return upper + np.triu(inverse, 1).T


def _build(setting: Setting) -> Ease:
    return Ease(setting.items)


_L2: Final = ({"l2": 100.0}, {"l2": 500.0})

SPECS: Final = (
    Spec("ease", _build, fitting=_L2),
    Spec("ease-recent", _build, fitting=_L2, scoring=[{"decay": decay} for decay in (0.95, 0.9, 0.8, 0.7, 0.5)]),
)

"""User-user collaborative filtering: what the users with the most similar histories did."""

from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.fitted import Setting, Spec, decayed, history_matrix
from operators.candidates.component import Component, Histories, top_rows

__all__ = ["SPECS", "UserUser"]


@dataclass
class UserUser(Component):
    """Score of j: the summed cosine of the ``neighbours`` nearest fitted users who have j, their newest items first.

    A history weighs ``decay**age`` on both sides, and a neighbour's item ``neighbour_decay**age`` in the sum.
    """

    items: int
    neighbours: int = 200
    decay: float = 1.0
    neighbour_decay: float = 1.0
    fitted: Histories = field(default_factory=lambda: Histories.of([]))
    prepared: dict[tuple[float, float], tuple[Any, Any]] = field(default_factory=dict[tuple[float, float], Any])
    """Unit histories and weighted items of the fitted users (CSR, both (U, N)), by the two decays"""

    def fit(self, histories: Histories) -> None:
        self.fitted, self.prepared = histories, {}

    def scores(self, users: Histories) -> NDArray[np.float32]:
        others, did = self._prepare()
        cosines = (self._unit(users) @ others.T).toarray().astype(np.float32)  # (U, fitted users)
        nearest = top_rows(cosines, min(self.neighbours, cosines.shape[1]))
        values = np.take_along_axis(cosines, nearest, axis=1)
        lines = np.repeat(np.arange(users.users), nearest.shape[1])
        chosen: Any = sparse.csr_matrix((values.ravel(), (lines, nearest.ravel())), shape=cosines.shape)
        return (chosen @ did).toarray().astype(np.float32)

    def _prepare(self) -> tuple[Any, Any]:
        key = self.decay, self.neighbour_decay
        if key not in self.prepared:
            did = history_matrix(self.fitted, self.items, decayed(self.fitted, self.neighbour_decay))
            self.prepared[key] = self._unit(self.fitted), did
        return self.prepared[key]

    def _unit(self, users: Histories) -> Any:
        matrix = history_matrix(users, self.items, decayed(users, self.decay))
        lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        return matrix.multiply(1 / np.maximum(lengths, 1e-12)[:, None]).tocsr()


def _build(setting: Setting) -> UserUser:
    return UserUser(setting.items)


SPECS: Final = (
    Spec(
        "user-user",
        _build,
        scoring=[
            {"neighbours": n, "decay": d, "neighbour_decay": e}
            for n, (d, e) in product((100, 400), ((1.0, 1.0), (0.95, 0.9), (0.9, 0.8)))
        ],
    ),
)

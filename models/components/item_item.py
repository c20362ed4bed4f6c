"""Item-item collaborative filtering: cosine or BM25 neighbours (`implicit`), summed over the history."""

import warnings
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from implicit import nearest_neighbours
from implicit.utils import ParameterWarning
from numpy.typing import NDArray

from models.fitted import Setting, Spec, decayed, history_matrix
from operators.candidates.component import Component, Histories

__all__ = ["SPECS", "ItemItem"]


@dataclass
class ItemItem(Component):
    """Score of j: the sum over the history of ``decay**age * similarity(i, j)`` (Sarwar et al., WWW 2001)."""

    items: int
    weighting: Literal["cosine", "bm25"] = "cosine"
    neighbours: int = 200
    decay: float = 1.0
    similarity: Any = None
    """CSR (N, N), once fitted"""

    def fit(self, histories: Histories) -> None:
        kinds: Any = {"cosine": nearest_neighbours.CosineRecommender, "bm25": nearest_neighbours.BM25Recommender}
        model = kinds[self.weighting](K=self.neighbours, num_threads=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ParameterWarning)  # of a conversion that it does itself
            model.fit(history_matrix(histories, self.items), show_progress=False)
        self.similarity = model.similarity

    def scores(self, users: Histories) -> NDArray[np.float32]:
        asked = history_matrix(users, self.items, decayed(users, self.decay))
        return (asked @ self.similarity).toarray().astype(np.float32)


def _build(setting: Setting) -> ItemItem:
    return ItemItem(setting.items)


SPECS: Final = (
    Spec(
        "item-item",
        _build,
        fitting=[{"weighting": weighting} for weighting in ("cosine", "bm25")],
        scoring=[{"decay": decay} for decay in (1.0, 0.9, 0.8, 0.6, 0.4)],
    ),
)

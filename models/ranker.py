"""Exact top k over a catalogue that stays on the device; only vectors, scores and rows cross."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.sessions import array_of, held_on, run_session

__all__ = ["Ranker"]

_SCORES_MAX: Final = 32 * 1024 * 1024
"""Scores of one call: bounds the memory of a large catalogue."""


class Ranker:
    """A rank graph with its item matrix. One thread calls it at a time.

    Args:
        ort: the module ``onnxruntime``.
        session: of ``models.graphs.rank_graph``.
        embeddings: (N, D).
        bias: (N,); -inf for items that are never to be found.
        device: "cpu" or "cuda".
        bias_edition: of the biases, a number of the caller's.
    """

    def __init__(
        self,
        ort: Any,
        session: Any,
        embeddings: NDArray[np.float32],
        bias: NDArray[np.float32],
        device: str,
        bias_edition: int = 0,
    ) -> None:
        self._session = session
        self._items = len(embeddings)
        self._ort, self._device = ort, device
        self._held: dict[str, Any] = {"item_embeddings": held_on(ort, embeddings, device)}
        self.set_bias(bias, bias_edition)
        self._rows = max(_SCORES_MAX // self._items, 1)

    def set_bias(self, bias: NDArray[np.float32], edition: int) -> None:
        """Replace the biases (N,)."""
        self._held["item_bias"] = held_on(self._ort, bias.copy(), self._device)
        self.bias_edition = edition

    def top_k(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Vectors (B, D) -> scores (B, k) descending, rows (B, k); a k beyond N gives all."""
        count = np.array([min(k, self._items)], np.int64)
        parts = [
            run_session(
                self._session, self._held | {"vector": vectors[at : at + self._rows], "k": count}, ("scores", "rows")
            )
            for at in range(0, max(len(vectors), 1), self._rows)
        ]
        columns = [[array_of(value) for value in column] for column in zip(*parts, strict=True)]
        scores, rows = (column[0] if len(column) == 1 else np.concatenate(column) for column in columns)
        return scores, rows

"""Exact top k over a catalogue that stays on the device; only vectors, scores and rows cross."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.sessions import on_device, run_session

__all__ = ["SHORTLIST_FACTOR", "Ranker"]

_SCORES_MAX: Final = 32 * 1024 * 1024
"""Scores of one call: bounds the memory of a large catalogue."""
SHORTLIST_FACTOR: Final = 4
"""Candidates for each place of a list, where a graph scores twice."""


class Ranker:
    """A rank graph with its item matrix. One thread calls it at a time.

    Args:
        ort: the module ``onnxruntime``.
        session: of ``models.graphs.rank_graph`` or ``models.device_graphs.shortlist_graph``.
        embeddings: (N, D), an array, or an ``OrtValue`` on the device.
        bias: (N,); -inf for items that are never to be found.
        device: "cpu" or "cuda".
        bias_edition: of the biases, a number of the caller's.
        lock: held while the device is used.
    """

    def __init__(
        self,
        ort: Any,
        session: Any,
        embeddings: Any,
        bias: NDArray[np.float32],
        device: str = "cpu",
        bias_edition: int = 0,
        lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self._lock = lock or nullcontext()
        self._session = session
        self._shortlists = any(tensor.name == "shortlist" for tensor in session.get_inputs())
        self._items = len(bias)
        self._ort, self._device = ort, device
        self._held: dict[str, Any] = {"item_embeddings": embeddings}
        self.set_bias(bias, bias_edition)
        self._rows = max(_SCORES_MAX // self._items, 1)

    def set_bias(self, bias: NDArray[np.float32], edition: int) -> None:
        """Replace the biases (N,)."""
        is_array = isinstance(self._held["item_embeddings"], np.ndarray)
        with self._lock:
            self._held["item_bias"] = bias.copy() if is_array else on_device(self._ort, bias.copy(), self._device)
        self.bias_edition = edition

    def top_k(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Vectors (B, D) -> scores (B, k) descending, rows (B, k); a k beyond N gives all."""
        counts = {"k": np.array([min(k, self._items)], np.int64)}
        if self._shortlists:
            counts["shortlist"] = np.minimum(SHORTLIST_FACTOR * counts["k"], self._items)
        every = range(0, max(len(vectors), 1), self._rows)
        with self._lock:
            parts = [self._call(counts | {"vector": vectors[at : at + self._rows]}) for at in every]
        scores, rows = (
            column[0] if len(column) == 1 else np.concatenate(column) for column in zip(*parts, strict=True)
        )
        return scores, rows

    def _call(self, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return run_session(self._session, self._held | inputs, ("scores", "rows"))

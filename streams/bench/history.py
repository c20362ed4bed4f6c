"""A worker without a model: the list is the user's ten newest items. What remains is the stream and its state.

The "encoder" keeps the last ten rows as its recurrent state; a step shifts them by one and ranking gives them back.
Everything else is the worker as it is.
"""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.dataset import complete_journey
from operators.interest import (
    OUT_OF_VOCABULARY,
    PackedJobs,
    advance_by_steps,
    effects_by_gathering,
    scores_by_gathering,
)
from streams import app
from streams.serving import run_worker
from streams.settings import load_settings

__all__ = ["SETTINGS", "HistoryEncoder", "serve"]

_LIST_ITEMS: Final = 10

SETTINGS: Final = {"WORKER_EXPLAIN": "false", "WORKER_REPEAT_WEIGHT": "0", "WORKER_LIST_ITEMS": str(_LIST_ITEMS)}


class HistoryEncoder:
    """An ``operators.interest.Encoder`` that recommends what was bought last."""

    provider: Final = "none"
    fusion: Final = None

    def __init__(self, items: Iterable[str]) -> None:
        self._items = ["", *items]
        self._rows = {item: row for row, item in enumerate(self._items) if row != OUT_OF_VOCABULARY}

    @property
    def version(self) -> str:
        return "history"

    @property
    def hidden_width(self) -> int:
        return _LIST_ITEMS

    @property
    def vector_width(self) -> int:
        return _LIST_ITEMS

    def row_of(self, item_id: str) -> int:
        return self._rows.get(item_id, OUT_OF_VOCABULARY)

    def rows_of(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        row_of = self._rows.get
        return np.array([row_of(item_id, OUT_OF_VOCABULARY) for item_id in item_ids], np.int64)

    def advance(self, packed: PackedJobs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return advance_by_steps(_newest_first, packed)

    def top_k(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rows = vectors[:, :k].astype(np.int64)
        falling = np.broadcast_to(np.arange(k, 0, -1, dtype=np.float32), rows.shape)
        return np.where(rows == OUT_OF_VOCABULARY, np.float32(-np.inf), falling), rows

    def items_at(self, rows: Iterable[int]) -> list[str]:
        items = self._items
        return [items[row] for row in rows]

    def directions(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.zeros((*rows.shape, _LIST_ITEMS), np.float32)

    def influences(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.directions(rows)

    def embeddings(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.zeros((*rows.shape, _LIST_ITEMS), np.float32)

    def biases(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.zeros(rows.shape, np.float32)

    def scores_of(self, vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return scores_by_gathering(self, vectors, rows)

    def effects(self, listed: NDArray[np.int64], events: NDArray[np.int64]) -> NDArray[np.float32]:
        return effects_by_gathering(self, listed, events)

    def set_rule(self, item_id: str, available: bool, boost: float) -> None:
        """The newest items are listed whatever the catalogue says."""


def _newest_first(
    hidden: NDArray[np.float32], rows: NDArray[np.int64], *_: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    newest = np.concatenate([rows[:, None].astype(np.float32), hidden[:, :-1]], axis=1)
    return newest, newest


def serve() -> None:
    """Run a worker on this encoder until SIGTERM."""
    logging.basicConfig(level=logging.WARNING)
    encoder = HistoryEncoder(complete_journey().items)

    def without_model(_model_dir: Path, **_options: Any) -> HistoryEncoder:
        return encoder

    # The worker knows one kind of encoder, and a benchmark's needs are no reason for it to know two.
    app.OnnxEncoder = without_model  # type: ignore[assignment, misc]  # pyright: ignore[reportAttributeAccessIssue]
    run_worker(load_settings())


if __name__ == "__main__":
    serve()

"""The item side of a model learning in the stream, and rows for items that the model was not trained on.

The encoder stays as it is: states and interest vectors are made of the trained rows alone, whatever is learned here.
Only what a vector is compared with moves.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from operators.candidates.component import top_rows
from operators.interest import OUT_OF_VOCABULARY, Encoder, PackedJobs, effects_by_gathering, scores_by_gathering

__all__ = ["NEIGHBOURS", "LiveItems"]

NEIGHBOURS: Final = 10
_NEIGHBOURS_DECAY: Final = 0.8
"""Newest events of a history that an item is near to, and what each counts less than the one after it."""
_STEP_EVENTS: Final = 64
_TOUCHED_EVENTS: Final = 2_000
"""Newest events whose items a step moves; the loss is over every item."""
_BIAS_STEP_MAX: Final = 0.5
_SQUARES_TRAINED: Final = 1.0
_SQUARES_NEW: Final = 0.01
"""Where the sums of squared gradients start: a new row moves quickly at first, a trained one never does."""
_CONTENT_EVENTS: Final = 3
"""Events that a row predicted from content counts as."""
_NO_CONTENT: Final[Mapping[str, NDArray[np.float32]]] = MappingProxyType({})


class LiveItems:
    """The ``Encoder`` it is made of, with item rows that learn; new items have rows behind the trained ones.

    ``row_of`` knows new items, so that they can be ranked; ``advance`` takes them for ``OUT_OF_VOCABULARY``.

    A step is row-wise Adagrad (as for embedding tables, Mudigere et al. 2022) on the softmax over all items: no
    row moves by more than ``rate * sqrt(D)``, no bias by more than 0.5, for 64 events.
    """

    def __init__(
        self,
        encoder: Encoder,
        items: int,
        *,
        rate: float,
        new_items_max: int,
        content: Mapping[str, NDArray[np.float32]] = _NO_CONTENT,
    ) -> None:
        """
        Args:
            items: N, rows of the encoder's item matrix.
            rate: of the steps; 0 moves no trained row.
            new_items_max: new items that get a row, first come, first served; 0 for none.
            content: (D,) embedding to start from, by item id, for new items that have one.
        """
        self._encoder, self._trained, self._rate, self._content = encoder, items, rate, content
        self._embeddings = np.zeros((items + new_items_max, encoder.vector_width), np.float32)
        self._embeddings[:items] = encoder.embeddings(np.arange(items))
        self._given_bias = np.full(items + new_items_max, -np.inf, np.float32)
        self._squares = np.full(items + new_items_max, _SQUARES_TRAINED, np.float32)
        self._squares[items:] = _SQUARES_NEW
        self._counts = np.zeros(items + new_items_max, np.int64)
        self._learned_bias = np.zeros(items + new_items_max, np.float32)
        self._new_ids: list[str] = []
        self._new_rows: dict[str, int] = {}
        self._newest: deque[int] = deque(maxlen=_TOUCHED_EVENTS)
        self._give_biases()

    @property
    def version(self) -> str:
        return self._encoder.version

    @property
    def hidden_width(self) -> int:
        return self._encoder.hidden_width

    @property
    def vector_width(self) -> int:
        return self._encoder.vector_width

    @property
    def _used(self) -> int:
        return self._trained + len(self._new_ids)

    def row_of(self, item_id: str) -> int:
        return self._encoder.row_of(item_id) or self._new_rows.get(item_id, OUT_OF_VOCABULARY)

    def rows_of(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        return np.array([self.row_of(item_id) for item_id in item_ids], np.int64)

    def items_at(self, rows: Iterable[int]) -> list[str]:
        given = list(rows)
        names = self._encoder.items_at([row if row < self._trained else OUT_OF_VOCABULARY for row in given])
        return [
            name if row < self._trained else self._new_ids[row - self._trained]
            for row, name in zip(given, names, strict=True)
        ]

    def advance(self, packed: PackedJobs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._encoder.advance(packed._replace(rows=self._known(packed.rows)))

    def top_k(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scores = self._scores(vectors)
        rows = top_rows(scores, min(k, self._used))
        return np.take_along_axis(scores, rows, axis=1), rows

    def embeddings(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._embeddings[rows]

    def biases(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._given_bias[rows] + self._learned_bias[rows]

    def directions(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        found = self._embeddings[rows]
        return found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), np.float32(1e-12))

    def influences(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._encoder.influences(self._known(rows))

    def scores_of(self, vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return scores_by_gathering(self, vectors, rows)

    def effects(self, listed: NDArray[np.int64], events: NDArray[np.int64]) -> NDArray[np.float32]:
        return effects_by_gathering(self, listed, events)

    def set_rule(self, item_id: str, available: bool, boost: float) -> None:
        """Of the encoder's items, in its lists and in these; a new item has no rules."""
        self._encoder.set_rule(item_id, available, boost)
        self._give_biases()

    def learn(self, item_ids: Sequence[str], vectors: NDArray[np.float32], neighbours: NDArray[np.float32]) -> None:
        """Learn that users went on to these items; what is learned depends on their order.

        Args:
            vectors: (B, D) interest vector of each event's user before it.
            neighbours: (B, D) of each event, by ``neighbourhood``.
        """
        rows = np.array([self._admitted(item_id) for item_id in item_ids], np.int64)
        known = rows != OUT_OF_VOCABULARY
        rows, vectors, neighbours = rows[known], vectors[known], neighbours[known]
        self._place_new(rows, neighbours)
        self._give_biases()
        if self._rate:
            for start in range(0, len(rows), _STEP_EVENTS):
                self._step(rows[start : start + _STEP_EVENTS], vectors[start : start + _STEP_EVENTS])

    def neighbourhood(self, item_ids: Sequence[str]) -> NDArray[np.float32]:
        """(D,) decayed mean of the trained embeddings of the newest items, oldest first; zeros where none is known."""
        rows = self._encoder.rows_of(item_ids[-NEIGHBOURS:])[::-1]
        weights = _NEIGHBOURS_DECAY ** np.arange(len(rows), dtype=np.float32) * (rows != OUT_OF_VOCABULARY)
        total = np.float32(weights.sum())
        return (weights @ self._encoder.embeddings(rows)) / total if total else np.zeros(self.vector_width, np.float32)

    def _admitted(self, item_id: str) -> int:
        row = self.row_of(item_id)
        if row == OUT_OF_VOCABULARY and self._used < len(self._embeddings):
            row = self._new_rows[item_id] = self._used
            self._new_ids.append(item_id)
            self._embeddings[row] = self._content.get(item_id, 0)
        return row

    def _place_new(self, rows: NDArray[np.int64], neighbours: NDArray[np.float32]) -> None:
        """A new item's row goes to the mean of its events' neighbourhoods, its content counting as some of them."""
        np.add.at(self._counts, rows, 1)
        at = np.flatnonzero(rows >= self._trained)
        new, place = np.unique(rows[at], return_inverse=True)
        if len(new):
            total = np.zeros((len(new), self.vector_width), np.float32)
            np.add.at(total, place, neighbours[at])
            events = np.bincount(place)[:, None]
            of_content = [
                _CONTENT_EVENTS * (self._new_ids[row - self._trained] in self._content) for row in new.tolist()
            ]
            weight = self._counts[new, None] + np.array(of_content)[:, None]
            self._embeddings[new] += ((total - events * self._embeddings[new]) / weight).astype(np.float32)

    def _give_biases(self) -> None:
        """Before what is learned: of trained rows the encoder's, of new ones as theirs would be with as many events.

        Before any trained item was learned there is nothing to compare a new one with: it is not ranked.
        """
        trained, used = self._encoder.biases(np.arange(self._trained)), self._used
        self._given_bias[: self._trained] = trained
        popularity = np.log1p(self._counts[:used]).astype(np.float32)
        seen = (self._counts[: self._trained] > 0) & np.isfinite(trained)
        if seen.any():
            offset = (trained - popularity[: self._trained])[seen].mean()
            self._given_bias[self._trained : used] = offset + popularity[self._trained :]

    def _step(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        self._newest.extend(rows.tolist())
        touched = np.unique(np.array(self._newest))
        errors = _softmax(self._scores(vectors))
        errors[np.arange(len(rows)), rows] -= 1
        of_touched = errors[:, touched]
        gradient = of_touched.T @ vectors
        self._squares[touched] += np.square(gradient).mean(axis=1)
        self._embeddings[touched] -= self._rate * gradient / np.sqrt(self._squares[touched])[:, None]
        self._learned_bias[touched] -= np.clip(self._rate * of_touched.sum(axis=0), -_BIAS_STEP_MAX, _BIAS_STEP_MAX)

    def _scores(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return vectors @ self._embeddings[: self._used].T + self.biases(np.arange(self._used))

    def _known(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(rows < self._trained, rows, OUT_OF_VOCABULARY)


def _softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    grown = np.exp(scores - scores.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)

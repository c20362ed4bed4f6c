"""A small deterministic encoder in numpy, and builders of records, for tests of the core and of the shell."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from operators.batches import Chunk
from operators.columns import Columns
from operators.events import Event, fingerprint_of
from operators.fold import Folded
from operators.interest import (
    GAP_BUCKETS,
    OUT_OF_VOCABULARY,
    PackedJobs,
    advance_by_steps,
    effects_by_gathering,
    scores_by_gathering,
)
from operators.records import Records
from operators.state import Past

__all__ = ["NOW_MS", "TOPICS", "FakeEncoder", "FakeRecord", "chunk", "event", "full_pass", "items", "record"]

NOW_MS = 1_700_000_000_000
TOPICS = ("view", "click", "purchase")

FormatHeaders = list[tuple[str, bytes]]
_HEADERS: dict[str, FormatHeaders] = {"json": [], "msgpack": [("content-type", b"application/msgpack")]}


def items(count: int) -> list[str]:
    """Item ids of a vocabulary of the given size."""
    return [f"item-{n}" for n in range(count)]


class FakeEncoder:
    """A diagonal linear recurrence with random matrices; implements ``operators.interest.Encoder``.

    ``h' = decay * h + E[row] + T[type] + G[gap]`` over 2 D channels, ``vector = tanh(h'[:D] + h'[D:])``. Every
    operation of a step is element by element, so that a user's numbers do not depend on the batch.
    """

    def __init__(self, vocabulary: Iterable[str], *, width: int = 6, seed: int = 7, version: str = "fake-1") -> None:
        self.items = ["", *vocabulary]
        self.rows = {item: row for row, item in enumerate(self.items) if row != OUT_OF_VOCABULARY}
        draw = np.random.default_rng(seed).standard_normal
        self.matrix = draw((len(self.items), width)).astype(np.float32)
        self.item_inputs = draw((len(self.items), 2 * width)).astype(np.float32)
        self.type_inputs = draw((3, 2 * width)).astype(np.float32)
        self.gap_inputs = draw((GAP_BUCKETS, 2 * width)).astype(np.float32)
        self.decay = np.linspace(0.1, 0.97, 2 * width).astype(np.float32)
        self.bias = draw(len(self.items)).astype(np.float32)
        self.boosts = np.zeros(len(self.items), np.float32)
        self.available = np.ones(len(self.items), np.bool_)
        self.available[OUT_OF_VOCABULARY] = False
        self.step_calls = 0
        self._version = version
        self._width = width

    @property
    def version(self) -> str:
        return self._version

    @property
    def hidden_width(self) -> int:
        return 2 * self._width

    @property
    def vector_width(self) -> int:
        return self._width

    def row_of(self, item_id: str) -> int:
        return self.rows.get(item_id, OUT_OF_VOCABULARY)

    def rows_of(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        return np.array([self.row_of(item_id) for item_id in item_ids], np.int64)

    def item_at(self, row: int) -> str:
        return self.items[row]

    def advance(self, packed: PackedJobs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return advance_by_steps(self.step, packed)

    def step(
        self, hidden: NDArray[np.float32], rows: NDArray[np.int64], types: NDArray[np.int64], gaps: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.step_calls += 1
        inputs = self.item_inputs[rows] + self.type_inputs[types] + self.gap_inputs[gaps]
        following = (self.decay * hidden + inputs).astype(np.float32)
        vectors = np.tanh(following[:, : self._width] + following[:, self._width :])
        return following, vectors.astype(np.float32)

    def top_k(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scores = np.einsum("bd,nd->bn", vectors, self.matrix) + self.biases(np.arange(len(self.items)))
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int64)
        return np.take_along_axis(scores, best, 1), best

    def items_at(self, rows: Iterable[int]) -> list[str]:
        return [self.items[row] for row in rows]

    def directions(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.matrix[rows] / np.linalg.norm(self.matrix[rows], axis=-1, keepdims=True)

    def influences(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.item_inputs[rows, : self._width] + self.item_inputs[rows, self._width :]

    def embeddings(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.matrix[rows]

    def biases(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.where(self.available, self.bias + self.boosts, np.float32(-np.inf))[rows]

    def scores_of(self, vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return scores_by_gathering(self, vectors, rows)

    def effects(self, listed: NDArray[np.int64], events: NDArray[np.int64]) -> NDArray[np.float32]:
        return effects_by_gathering(self, listed, events)

    def set_rule(self, item_id: str, available: bool, boost: float) -> None:
        row = self.row_of(item_id)
        if row != OUT_OF_VOCABULARY:
            self.available[row] = available
            self.boosts[row] = boost


def _gap(gap_ms: int | None) -> int:
    """0: no previous event; 1: under a second; then one bucket a doubling of the whole seconds, the last open."""
    if gap_ms is None:
        return 0
    seconds, bucket = gap_ms // 1000, 1
    while seconds >= 1 and bucket < GAP_BUCKETS - 1:
        seconds, bucket = seconds // 2, bucket + 1
    return bucket


def full_pass(
    encoder: FakeEncoder, history: Sequence[tuple[str, int, int]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Hidden state (S,) and vector (D,) of a whole history of (item, type, time) in float64, from zero."""
    hidden = np.zeros(encoder.hidden_width, np.float64)
    previous: int | None = None
    for item, event_type, time_ms in history:
        inputs = (
            encoder.item_inputs[encoder.row_of(item)].astype(np.float64)
            + encoder.type_inputs[event_type]
            + encoder.gap_inputs[_gap(None if previous is None else time_ms - previous)]
        )
        hidden = encoder.decay.astype(np.float64) * hidden + inputs
        previous = time_ms
    width = encoder.vector_width
    return hidden, np.tanh(hidden[:width] + hidden[width:])


class FakeRecord(NamedTuple):
    """A consumed record."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()


def record(
    offset: int, user: str, item: str, timestamp_ms: int = NOW_MS, *, encoding: str = "json", **fields: Any
) -> FakeRecord:
    """A record of a valid event; ``fields`` are added to it or replace fields of it."""
    body = {"user_id": user, "item_id": item, "timestamp": timestamp_ms, **fields}
    encode = msgspec.json.encode if encoding == "json" else msgspec.msgpack.encode
    return FakeRecord(offset, user.encode(), encode(body), _HEADERS[encoding])


def chunk(event_type: int, partition: int, records: Sequence[FakeRecord] | Records) -> Chunk:
    """Records of one partition of the topic of an event type."""
    return Chunk.of(TOPICS[event_type], event_type, partition, records)


def event(
    offset: int, item: str, timestamp_ms: int, *, event_type: int = 0, event_id: str | None = None, user: str = "u"
) -> Event:
    """An accepted event."""
    fingerprint = 0 if event_id is None else fingerprint_of(event_id)
    return Event(user.encode(), item, event_type, timestamp_ms, offset, fingerprint)


def fresh_count(folded: Folded) -> int:
    """How many events ``fold`` found new."""
    return sum(folded.is_fresh)


def past(item: str, event_type: int, timestamp_ms: int, fingerprint: int) -> Past:
    """An event as a history takes it."""
    return Past.of(Columns.of([Event(b"u", item, event_type, timestamp_ms, 0, fingerprint)]))

"""The interest vector: the encoder's protocol, its inputs, and the wave scheduler that refreshes many users at once."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EVENT_TYPES",
    "GAP_BUCKETS",
    "NO_GAP_MS",
    "OUT_OF_VOCABULARY",
    "Encoder",
    "Job",
    "gap_bucket",
    "gap_buckets",
    "refresh",
]

EVENT_TYPES: Final = ("view", "click", "purchase")
"""The index of a type in this tuple is its row in the encoder's type embedding and its slot in the fences."""

OUT_OF_VOCABULARY: Final = 0
"""Row of the item matrix for every item the model was not trained on; never recommended."""

GAP_BUCKETS: Final = 28

NO_GAP_MS: Final = np.iinfo(np.int64).min
"""In the place of a gap, where there is no previous event."""

_NOTHING: Final = np.zeros(0, np.int64)


def gap_bucket(gap_ms: int | None) -> int:
    """Bucket of the event time since the user's previous event, in ``range(GAP_BUCKETS)``.

    0: no previous event; 1: under a second; then one bucket per doubling of the whole seconds,
    the last one open-ended (2**25 s is about a year).
    """
    if gap_ms is None:
        return 0
    return min(1 + max(gap_ms // 1000, 0).bit_length(), GAP_BUCKETS - 1)


def gap_buckets(gaps_ms: NDArray[np.int64]) -> NDArray[np.int64]:
    """``gap_bucket`` of each gap (n,), with ``NO_GAP_MS`` where there is no previous event."""
    seconds = np.maximum(gaps_ms, 0) // 1000
    doublings = np.frexp(seconds.astype(np.float64))[1]  # the bit length of a whole number
    buckets = np.minimum(doublings + 1, GAP_BUCKETS - 1)
    buckets[gaps_ms == NO_GAP_MS] = 0
    return buckets.astype(np.int64)


class Encoder(Protocol):
    """A recurrent sequence encoder with its item matrix: one step per event, exact top-k by inner product.

    Implementations are thread-compatible: one thread calls them at a time.
    """

    @property
    def version(self) -> str:
        """Identifies weights and vocabulary; states carry it, and nothing mixes two versions."""
        ...

    @property
    def hidden_width(self) -> int:
        """Floats of recurrent state per user (S)."""
        ...

    @property
    def vector_width(self) -> int:
        """Floats of an interest vector (D)."""
        ...

    def row_of(self, item_id: str) -> int:
        """Row of the item matrix, or ``OUT_OF_VOCABULARY``."""
        ...

    def rows_of(self, item_ids: Iterable[str]) -> list[int]:
        """``row_of`` of each item."""
        ...

    def step(
        self,
        hidden: NDArray[np.float32],
        rows: NDArray[np.int64],
        types: NDArray[np.int64],
        gaps: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One event for each of B users: hidden (B, S) and inputs (B,) -> hidden' (B, S), vectors (B, D)."""
        ...

    def top_k(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Exact k best available items: vectors (B, D) -> scores (B, k) descending, rows (B, k).

        Withdrawn items and ``OUT_OF_VOCABULARY`` score -inf. A k beyond the number of rows gives all rows.
        """
        ...

    def items_at(self, rows: Iterable[int]) -> list[str]:
        """The item id of each row of the item matrix; that of ``OUT_OF_VOCABULARY`` is empty."""
        ...

    def directions(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Item embeddings of the given rows, scaled to length 1: shape of ``rows`` + (D,)."""
        ...

    def influences(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """What one event of each item adds to a user's vector, on the whole: shape of ``rows`` + (D,)."""
        ...

    def embeddings(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Item embeddings of the given rows: shape of ``rows`` + (D,)."""
        ...

    def biases(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Bias of the given rows as ``top_k`` uses it: -inf where it may not be recommended."""
        ...

    def set_rule(self, item_id: str, available: bool, boost: float) -> None:
        """Withdraw an item from ``top_k`` or bring it back with ``boost`` on its score; an unknown id is ignored."""
        ...


class Job(NamedTuple):
    """Events to apply to one user: hidden is (S,) or None for a fresh state; the others are (L,), L >= 1."""

    hidden: NDArray[np.float32] | None
    rows: NDArray[np.int64]
    types: NDArray[np.int64]
    gaps: NDArray[np.int64]


def refresh(encoder: Encoder, jobs: Sequence[Job]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Apply every job's events in order; one encoder call per wave.

    Wave t holds the t-th event of every user that has one. Users are ordered by falling number of
    events, so that each wave works on a prefix of the arrays and copies nothing.

    Returns hidden (B, S) and vectors (B, D) after the last event of each job, in the order of ``jobs``.
    """
    count = len(jobs)
    order = sorted(range(count), key=lambda j: -len(jobs[j].rows))
    hidden = np.zeros((count, encoder.hidden_width), np.float32)
    vectors = np.zeros((count, encoder.vector_width), np.float32)
    for place, j in enumerate(order):
        start = jobs[j].hidden
        if start is not None:
            hidden[place] = start
    lengths = np.array([len(jobs[j].rows) for j in order], np.int64)
    starts = np.cumsum(lengths) - lengths
    rows = np.concatenate([_NOTHING, *(jobs[j].rows for j in order)])
    types = np.concatenate([_NOTHING, *(jobs[j].types for j in order)])
    gaps = np.concatenate([_NOTHING, *(jobs[j].gaps for j in order)])
    for wave in range(int(lengths[0]) if count else 0):
        active = int(np.searchsorted(-lengths, -wave))  # jobs of more than `wave` events: a prefix
        at = starts[:active] + wave
        hidden[:active], vectors[:active] = encoder.step(hidden[:active], rows[at], types[at], gaps[at])
    back = np.empty(count, np.int64)
    back[order] = np.arange(count)
    return hidden[back], vectors[back]

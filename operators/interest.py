"""The interest vector: the encoder's protocol, its inputs, and how the events of many users become one call."""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EVENT_TYPES",
    "GAP_BUCKETS",
    "NO_GAP_MS",
    "OUT_OF_VOCABULARY",
    "Encoder",
    "EncoderError",
    "Job",
    "PackedJobs",
    "advance_by_steps",
    "effects_by_gathering",
    "gap_bucket",
    "gap_buckets",
    "pack_jobs",
    "refresh",
    "scores_by_gathering",
    "stacked",
    "step",
]

EVENT_TYPES: Final = ("view", "click", "purchase")
"""The index of a type in this tuple is its row in the encoder's type embedding and its slot in the fences."""

OUT_OF_VOCABULARY: Final = 0
"""Row of the item matrix for every item the model was not trained on; never recommended."""

GAP_BUCKETS: Final = 28

NO_GAP_MS: Final = np.iinfo(np.int64).min
"""In the place of a gap, where there is no previous event."""


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


class EncoderError(RuntimeError):
    """An encoder that is known to be able to fail cannot compute now; lists are made without it meanwhile."""


class PackedJobs(NamedTuple):
    """The P events of B users, user after user, the oldest of each first; each user has some."""

    hidden: NDArray[np.float32]
    """(B, S) before the events."""
    rows: NDArray[np.int64]
    types: NDArray[np.int64]
    gaps: NDArray[np.int64]
    """(P,) inputs of the events, each of the three."""
    ends: NDArray[np.int64]
    """(B,) the events of user n are those from ``ends[n - 1]``, or 0, up to ``ends[n]``."""
    kept: NDArray[np.int64] | None = None
    """(B,) where the encoder itself has each state before the events, 0 for nowhere; none of them is two users'.

    The encoder writes here where it has the new ones, when it is through with all of them: zeros, if it keeps none.
    """


class Encoder(Protocol):
    """A recurrent sequence encoder with its item matrix: O(1) work per event, exact top-k by inner product.

    One thread may call ``advance`` and the look-ups while another one calls the rest: the lists of a batch are made
    while the next one is encoded.
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

    def rows_of(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """``row_of`` of each item (n,)."""
        ...

    def advance(self, packed: PackedJobs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Apply the events: hidden (B, S) and vectors (B, D) after each user's last one."""
        ...

    def top_k(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Exact k best available items: vectors (B, D) -> scores (B, k) descending, rows (B, k).

        Withdrawn items and ``OUT_OF_VOCABULARY`` score -inf. A k beyond the number of rows gives all rows.
        """
        ...

    def scores_of(self, vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """What ``top_k`` gives these items: vectors (B, D), rows (B, X) -> (B, X).

        Nobody's numbers depend on the others of the batch.
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

    def effects(self, listed: NDArray[np.int64], events: NDArray[np.int64]) -> NDArray[np.float32]:
        """``embedding . influence``: rows of lists (B, k) and of events (B, E) -> (B, k, E).

        Rows below 0 are items that the encoder does not know, and as ``OUT_OF_VOCABULARY``.
        """
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


def step(
    encoder: Encoder,
    hidden: NDArray[np.float32],
    rows: NDArray[np.int64],
    types: NDArray[np.int64],
    gaps: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One event for each of B users: hidden (B, S) and inputs (B,) -> hidden' (B, S), vectors (B, D)."""
    return encoder.advance(PackedJobs(hidden, rows, types, gaps, np.arange(1, len(rows) + 1)))


def advance_by_steps(
    step: Callable[..., tuple[NDArray[np.float32], NDArray[np.float32]]], packed: PackedJobs
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """``Encoder.advance`` by ``step(hidden, rows, types, gaps)``, which takes one event for each of its users.

    The first call takes everybody's first event, the next one the second events of those who have one, and so on.
    """
    hidden, *columns, ends, _ = packed
    lengths = np.diff(ends, prepend=0)
    states, vectors = step(hidden, *(column[ends - lengths] for column in columns))
    for n in range(1, int(lengths.max(initial=0))):
        users = np.flatnonzero(lengths > n)
        places = (ends - lengths)[users] + n
        states[users], vectors[users] = step(states[users], *(column[places] for column in columns))
    return states, vectors


def scores_by_gathering(encoder: Encoder, vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """``Encoder.scores_of`` by ``embeddings`` and ``biases``."""
    # einsum, not matmul: a user's number must not depend on the others of the batch.
    return np.einsum("bd,bxd->bx", vectors, encoder.embeddings(rows)) + encoder.biases(rows)


def effects_by_gathering(encoder: Encoder, listed: NDArray[np.int64], events: NDArray[np.int64]) -> NDArray[np.float32]:
    """``Encoder.effects`` by ``embeddings`` and ``influences``."""
    known = np.maximum(listed, OUT_OF_VOCABULARY)
    return np.einsum("bkd,bed->bke", encoder.embeddings(known), encoder.influences(events))


def pack_jobs(jobs: Sequence[Job], hidden_width: int) -> PackedJobs:
    """The jobs, of which there is one at least, in their order."""
    rows, types, gaps = (np.concatenate(column) for column in zip(*(job[1:] for job in jobs), strict=True))
    hidden = stacked([job.hidden for job in jobs], hidden_width)
    return PackedJobs(hidden, rows, types, gaps, np.cumsum([len(job.rows) for job in jobs]))


def stacked(hidden: Sequence[NDArray[np.float32] | None], hidden_width: int) -> NDArray[np.float32]:
    """(B, S) of B recurrent states, zeros for a fresh one."""
    fresh = np.zeros(hidden_width, np.float32)
    every = [fresh if of_user is None else of_user for of_user in hidden]
    return np.concatenate([fresh[:0], *every]).reshape(-1, hidden_width)


def refresh(encoder: Encoder, jobs: Sequence[Job]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Apply every job's events in order, all in one call of the encoder.

    Returns hidden (B, S) and vectors (B, D) after the last event of each job, in the order of ``jobs``.
    """
    if not jobs:
        return np.zeros((0, encoder.hidden_width), np.float32), np.zeros((0, encoder.vector_width), np.float32)
    return encoder.advance(pack_jobs(jobs, encoder.hidden_width))

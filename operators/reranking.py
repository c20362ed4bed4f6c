"""Reshaping a list of scored candidates: what the user took before, variety, and caps by category."""

import numpy as np
from numpy.typing import NDArray

from operators.interest import OUT_OF_VOCABULARY, Encoder

__all__ = ["NO_CATEGORY", "reshaped", "with_repeats"]

NO_CATEGORY = 0

_Scored = tuple[NDArray[np.float32], NDArray[np.int64]]


def with_repeats(
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
    recent: NDArray[np.int64],
    vectors: NDArray[np.float32],
    encoder: Encoder,
    weight: float,
) -> _Scored:
    """Add ``weight * log1p(times in the history)`` to the items of the history: the exact new top k.

    ``scores`` and ``rows`` (B, k) are the encoder's best for ``vectors`` (B, D); ``recent`` (B, H) the rows of the
    histories, filled with row 0. Only items of the history gain, so that any other of the new best k is among the
    old ones.
    """
    times, first = _occurrences(recent)
    # einsum, not matmul: a user's number must not depend on the others of the batch.
    own = np.einsum("bd,bhd->bh", vectors, encoder.embeddings(recent)) + encoder.biases(recent)
    own += np.float32(weight) * np.log1p(times.astype(np.float32))
    own = np.where(first & (recent != OUT_OF_VOCABULARY), own, np.float32(-np.inf))
    twice = (rows[:, :, None] == recent[:, None, :]).any(axis=2)
    both = np.concatenate([own, np.where(twice, np.float32(-np.inf), scores)], axis=1)
    places = np.argsort(-both, axis=1, kind="stable")[:, : scores.shape[1]]
    return np.take_along_axis(both, places, 1), np.take_along_axis(np.concatenate([recent, rows], axis=1), places, 1)


def _occurrences(recent: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """How often each row stands in its user's history, and whether it stands there for the first time: (B, H) each."""
    apart = recent + np.arange(len(recent))[:, None] * (int(recent.max(initial=0)) + 1)
    _, first_at, group, counts = np.unique(apart, return_index=True, return_inverse=True, return_counts=True)
    first = np.zeros(recent.size, np.bool_)
    first[first_at] = True
    return counts[group].reshape(recent.shape), first.reshape(recent.shape)


def reshaped(
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
    encoder: Encoder,
    count: int,
    *,
    diversity: float,
    categories: NDArray[np.int64] | None,
    category_items_max: int,
) -> _Scored:
    """The best ``count`` of (B, k) candidates, best first, taken one by one.

    Each place goes to the candidate of greatest ``(1 - diversity) * score - diversity * similarity``: the score scaled
    to 0..1 within the list, the similarity the greatest cosine to an item already chosen (maximal marginal relevance,
    Carbonell and Goldstein, SIGIR 1998). ``categories`` (B, k) of which ``NO_CATEGORY`` is never full, or None.
    """
    usable = np.isfinite(scores)
    low = np.where(usable, scores, np.inf).min(axis=1, keepdims=True)
    span = np.maximum(np.where(usable, scores, -np.inf).max(axis=1, keepdims=True) - low, 1e-12)
    relevance = np.where(usable, (scores - low) / span, -np.inf)
    vectors = encoder.directions(rows)  # (B, k, D)
    nearest = np.zeros(scores.shape, np.float32)
    in_category = np.zeros(scores.shape, np.int64)
    lines = np.arange(len(scores))
    chosen = np.empty((len(scores), min(count, scores.shape[1])), np.int64)
    for place in range(chosen.shape[1]):
        full = (in_category >= category_items_max) if categories is not None else np.False_
        value = np.where(full, -np.inf, (1 - diversity) * relevance - diversity * nearest)
        best = value.argmax(axis=1)
        out_of_stock = np.isneginf(value[lines, best])
        chosen[:, place] = np.where(out_of_stock, -1, best)
        similar = np.einsum("bkd,bd->bk", vectors, vectors[lines, best])
        nearest = similar if place == 0 else np.maximum(nearest, similar)
        if categories is not None:
            of_best = categories[lines, best][:, None]
            in_category += (categories == of_best) & (of_best != NO_CATEGORY)
        relevance[lines, best] = -np.inf
    taken = np.maximum(chosen, 0)
    picked = np.where(chosen >= 0, np.take_along_axis(scores, taken, 1), np.float32(-np.inf))
    return picked, np.take_along_axis(rows, taken, 1)

"""Reshaping a list of scored candidates: variety, and caps by category."""

import numpy as np
from numpy.typing import NDArray

from operators.interest import OUT_OF_VOCABULARY, Encoder

__all__ = ["NO_CATEGORY", "reshaped"]

NO_CATEGORY = 0


def reshaped(
    scores: NDArray[np.float32],
    rows: NDArray[np.int64],
    encoder: Encoder,
    count: int,
    *,
    diversity: float,
    categories: NDArray[np.int64] | None,
    category_items_max: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The best ``count`` of (B, k) candidates, best first, taken one by one: their scores and their places among the k.

    Each place goes to the candidate of greatest ``(1 - diversity) * score - diversity * similarity``: the score scaled
    to 0..1 within the list, the similarity the greatest cosine to an item already chosen (maximal marginal relevance,
    Carbonell and Goldstein, SIGIR 1998). ``categories`` (B, k) of which ``NO_CATEGORY`` is never full, or None.
    """
    usable = np.isfinite(scores)
    low = np.where(usable, scores, np.inf).min(axis=1, keepdims=True)
    span = np.maximum(np.where(usable, scores, -np.inf).max(axis=1, keepdims=True) - low, 1e-12)
    relevance = np.where(usable, (scores - low) / span, 0.0)
    gone = ~usable
    vectors = encoder.directions(np.maximum(rows, OUT_OF_VOCABULARY))  # (B, k, D); new items are all alike
    nearest = np.zeros(scores.shape, np.float32)
    in_category = np.zeros(scores.shape, np.int64)
    lines = np.arange(len(scores))
    chosen = np.empty((len(scores), min(count, scores.shape[1])), np.int64)
    for place in range(chosen.shape[1]):
        full = (in_category >= category_items_max) if categories is not None else np.False_
        # At a diversity of 1 the score weighs nothing, but what is gone stays gone.
        value = np.where(full | gone, -np.inf, (1 - diversity) * relevance - diversity * nearest)
        best = value.argmax(axis=1)
        out_of_stock = np.isneginf(value[lines, best])
        chosen[:, place] = np.where(out_of_stock, -1, best)
        similar = np.einsum("bkd,bd->bk", vectors, vectors[lines, best])
        nearest = similar if place == 0 else np.maximum(nearest, similar)
        if categories is not None:
            of_best = categories[lines, best][:, None]
            in_category += (categories == of_best) & (of_best != NO_CATEGORY)
        gone[lines, best] = True
    taken = np.maximum(chosen, 0)
    picked = np.where(chosen >= 0, np.take_along_axis(scores, taken, 1), np.float32(-np.inf))
    return picked, taken

"""What a model has to beat where households buy the same things again: shop-wide popularity and their own counts."""

import numpy as np
from numpy.typing import NDArray

from models.dataset import Sequences
from operators.interest import OUT_OF_VOCABULARY

__all__ = ["personal_frequency", "popularity"]


def popularity(events: Sequences, items: int, before_ms: int) -> NDArray[np.float32]:
    """Score (N,) in 0..1: purchases before a time, relative to the best seller."""
    counts = np.bincount(events.rows[events.timestamp_ms < before_ms], minlength=items).astype(np.float32)
    counts[OUT_OF_VOCABULARY] = 0
    return counts / max(float(counts.max()), 1.0)


def personal_frequency(history: NDArray[np.int64], popular: NDArray[np.float32]) -> NDArray[np.float32]:
    """Buy again: score (N,) by the user's own count, then recency, then ``popularity`` for what was never bought.

    ``history`` (n,) holds the user's rows in time order.
    """
    scores = popular * 0.4
    rows, last = np.unique(history[::-1], return_index=True)
    scores[rows] = np.bincount(history, minlength=len(popular))[rows] + 0.5 * (1 - last / len(history))
    return scores

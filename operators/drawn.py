"""Histories drawn from what a model itself takes for likely: for measurements that must not need data."""

import numpy as np
from numpy.typing import NDArray

from operators.interest import Encoder

__all__ = ["drawn_rows"]


def drawn_rows(encoder: Encoder, items: int, histories: int, events: int) -> NDArray[np.int64]:
    """(histories, events) rows, each by the model's bias, which is trained from the log of an item's share.

    The same for the same model.

    Args:
        items: rows of the item matrix (N).
    """
    bias = encoder.biases(np.arange(items)).astype(np.float64)
    shares = np.where(np.isfinite(bias), np.exp(bias - bias[np.isfinite(bias)].max(initial=-np.inf)), 0.0)
    return np.random.default_rng(0).choice(items, (histories, events), p=shares / shares.sum())

"""Ranking metrics: ``ranked`` (B, K) item rows best first, ``targets`` one array of distinct rows per basket."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from operators.candidates.component import top_rows

__all__ = ["Scores", "bootstrap_interval", "discounts", "gains", "ndcg_of", "rank_scores", "recall_of", "top_rows"]


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over baskets, each in 0..1."""

    ndcg: float
    """By ``ndcg_of``."""
    hit_rate: float
    """Share of baskets with a target in the list."""
    recall: float
    """Share of a basket's targets that are in the list."""
    baskets: int


def rank_scores(ranked: NDArray[np.int64], targets: Sequence[NDArray[np.int64]]) -> Scores:
    """Score lists of length K against the baskets that followed; every basket has at least one target."""
    count = len(ranked)
    if count != len(targets) or count == 0:
        raise ValueError(f"{count} lists against {len(targets)} baskets")
    found = [np.isin(row, target) for row, target in zip(ranked, targets, strict=True)]
    hits = np.array(found, np.bool_)  # (B, K)
    sizes = np.array([len(target) for target in targets])
    found_of: NDArray[np.int64] = hits.sum(axis=1)
    return Scores(
        ndcg=float(np.mean(ndcg_of(hits, sizes))),
        hit_rate=float(np.mean(hits.any(axis=1))),
        recall=float(np.mean(found_of / sizes)),
        baskets=count,
    )


def ndcg_of(hits: NDArray[np.bool_], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """(B,) DCG of each list, hits (B, K) best first, over that of an ideal one of min(K, size) hits, sizes (B,)."""
    length = int(hits.shape[1])
    of_place = discounts(np.arange(1, length + 1))
    return hits @ of_place / np.cumsum(of_place)[np.minimum(sizes, length) - 1]


def discounts(ranks: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    """What a hit at each rank from 1 on counts: 1 / log2(rank + 1)."""
    return 1 / np.log2(ranks + 1)


def recall_of(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Share of the rows of ``exact`` (B, k) that are among those of ``found`` (B, K)."""
    return float((exact[:, :, None] == found[:, None, :]).any(axis=2).mean())


def gains(ranks: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """(U,) NDCG@k of each list with one target at this rank, from 1 on: its discount, 0 beyond k."""
    return np.where(ranks <= k, discounts(np.maximum(ranks, 1)), 0.0)


def bootstrap_interval(
    values: NDArray[np.float64], *, confidence: float = 0.95, rounds: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of ``values`` (U,) over resampled users (Efron and Tibshirani 1993, ch. 13)."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(rounds)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)

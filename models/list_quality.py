"""What lists are worth beside accuracy: coverage, novelty, diversity, calibration, and the cold."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.metrics import ndcg_of

__all__ = ["ListQuality", "Occasion", "judge_lists"]

COLD_ITEM_EVENTS = 20
COLD_USER_EVENTS = 5
ROUNDS = 500
STECK_SMOOTHING = 0.01


class Occasion(msgspec.Struct, frozen=True):
    """A moment at which a list was shown, and what the user did then."""

    user: int
    targets: NDArray[np.int64]
    """Distinct rows, at least one."""
    history: Sequence[int]
    """Rows of the user's events before, oldest first, at most the 50 newest."""
    events_before: int
    """All events of the user before."""
    target_counts: NDArray[np.int64]
    """Events of each target before, by anyone."""


class ListQuality(msgspec.Struct, frozen=True):
    """Means over occasions; the interval is of 95 %, over resampled users. None: nothing to measure it on."""

    ranker: str
    ndcg10: float
    ndcg10_ci: tuple[float, float]
    hr10: float
    mrr10: float
    coverage: float
    """Share of all items that were in some list."""
    novelty_bits: float
    """Mean -log2 of an item's share of the events before the test period, one added to every count."""
    diversity: float | None
    """Mean Jaccard distance of the attributes of two items of a list."""
    miscalibration: float | None
    """KL divergence of the list's attributes from the history's, in bits (Steck, RecSys 2018); less is better."""
    cold_item_recall10: float | None
    """Over targets with fewer than 20 events before."""
    cold_user_ndcg10: float | None
    """Over users with fewer than 5 events before."""
    occasions: int


def judge_lists(
    ranker: str,
    lists: NDArray[np.int64],
    occasions: Sequence[Occasion],
    counts_before: NDArray[np.int64],
    attributes: Mapping[int, frozenset[str]],
) -> ListQuality:
    """Judge the lists (G, 10) of a ranker, filled with 0 where they are short.

    Args:
        counts_before: (N,) events of each row before the test period.
        attributes: of each row; empty where the data has none.
    """
    hits: NDArray[np.bool_] = np.array(
        [np.isin(line, o.targets) for line, o in zip(lists, occasions, strict=True)]
    )  # (G, 10)
    ndcg = ndcg_of(hits, np.array([len(o.targets) for o in occasions]))
    place: NDArray[np.int64] = hits.argmax(axis=1)
    first: NDArray[np.float64] = np.where(hits.any(axis=1), 1 / (1 + place), 0.0)
    shown = lists[lists > 0]
    shares = (counts_before + 1) / (counts_before + 1).sum()
    cold_users = np.array([o.events_before < COLD_USER_EVENTS for o in occasions])
    low, high = _interval(ndcg, np.array([o.user for o in occasions]))
    return ListQuality(
        ranker=ranker,
        ndcg10=round(float(ndcg.mean()), 4),
        ndcg10_ci=(round(low, 4), round(high, 4)),
        hr10=round(float(np.mean(first > 0)), 4),
        mrr10=round(float(first.mean()), 4),
        coverage=round(len(np.unique(shown)) / (len(counts_before) - 1), 4),
        novelty_bits=round(float(-np.log2(shares[shown]).mean()) if len(shown) else 0.0, 2),
        diversity=_mean([_distance(line, attributes) for line in lists]) if attributes else None,
        miscalibration=_mean([_divergence(line, o, attributes) for line, o in zip(lists, occasions, strict=True)])
        if attributes
        else None,
        cold_item_recall10=_mean(_cold_items(lists, occasions)),
        cold_user_ndcg10=_mean(ndcg[cold_users].tolist()),
        occasions=len(occasions),
    )


def _interval(values: NDArray[np.float64], users: NDArray[np.int64]) -> tuple[float, float]:
    _, of_value = np.unique(users, return_inverse=True)
    sums, counts = np.bincount(of_value, values), np.bincount(of_value)
    rng = np.random.default_rng(0)
    chosen = [rng.integers(len(sums), size=len(sums)) for _ in range(ROUNDS)]
    low, high = np.quantile([sums[c].sum() / counts[c].sum() for c in chosen], [0.025, 0.975])
    return float(low), float(high)


def _cold_items(lists: NDArray[np.int64], occasions: Sequence[Occasion]) -> list[float]:
    found: list[float] = []
    for line, o in zip(lists, occasions, strict=True):
        found += np.isin(o.targets[o.target_counts < COLD_ITEM_EVENTS], line).astype(float).tolist()
    return found


def _distance(line: NDArray[np.int64], attributes: Mapping[int, frozenset[str]]) -> float | None:
    known = [attributes[row] for row in line.tolist() if row in attributes]
    pairs = [1 - len(a & b) / len(a | b) for a, b in combinations(known, 2) if a | b]
    return sum(pairs) / len(pairs) if pairs else None


def _divergence(line: NDArray[np.int64], o: Occasion, attributes: Mapping[int, frozenset[str]]) -> float | None:
    wanted, shown = _shares(o.history, attributes), _shares(line.tolist(), attributes)
    if not wanted or not shown:
        return None
    mixed = {name: (1 - STECK_SMOOTHING) * shown.get(name, 0) + STECK_SMOOTHING * p for name, p in wanted.items()}
    return float(sum(p * np.log2(p / mixed[name]) for name, p in wanted.items()))


def _shares(rows: Sequence[int], attributes: Mapping[int, frozenset[str]]) -> dict[str, float]:
    """Share of each attribute; an item with several divides itself among them."""
    weights: dict[str, float] = {}
    for row in rows:
        for name in (of_row := attributes.get(row, frozenset())):
            weights[name] = weights.get(name, 0) + 1 / len(of_row)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 4) if known else None

"""Popularity that moves with the stream: one exponentially decayed count per item."""

import math
from bisect import bisect_right
from collections.abc import Container
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.kernels import add_decayed, keys_from, values_of
from operators.wire import UNDECODABLE

__all__ = ["PopularItems", "Popularity", "PopularityError"]

_EXPONENT_MAX: Final = 64.0
_EDITION_GROWTH_SHARE: Final = 20
"""There is a new edition when the events have grown by one part in this many: it costs far more than an event."""
_RANKED_ITEMS: Final = 2 * limits.candidates_max


class PopularityError(ValueError):
    """Bytes that are no popularity snapshot."""


class _Snapshot(msgspec.Struct, array_like=True):
    schema: int
    landmark_ms: int
    events: int
    weights: dict[str, float]


class PopularItems:
    """Decayed counts as they were at one moment, ranked when they are asked for."""

    def __init__(self, events: int, weights: dict[str, float]) -> None:
        """``weights`` by item: they must not change any more while this is asked."""
        self.events: Final = events
        """Events that are counted."""
        self._weights = weights
        self._ranked: list[str] = []

    def top(self, count: int, excluded: Container[str] = ()) -> list[tuple[str, float]]:
        """The ``count`` most popular items that are not excluded, with their share of the top item's weight."""
        weights = self._weights
        if not self._ranked:
            self._ranked = _rank(weights, _RANKED_ITEMS)
        chosen = [item for item in self._ranked if item not in excluded][:count]
        if len(chosen) < count and len(self._ranked) < len(weights):
            self._ranked = _rank(weights, len(weights))
            chosen = [item for item in self._ranked if item not in excluded][:count]
        top = (weights[self._ranked[0]] if self._ranked else 0.0) or 1.0  # a weight of long ago may be none
        return [(item, weights[item] / top) for item in chosen]


class Popularity:
    """Decayed item counts of one partition's events; bounded, and a function of the events in their order.

    Forward decay (Cormode et al., ICDE 2009): an event at time t adds 2**((t - landmark) / half-life), so that
    nothing is decayed on reading and all that matters, the order of the weights, is right at every moment.

    Lists are made of editions: the counts as they were after certain numbers of events. So a user's list is the same
    however many later events are in the same batch.
    """

    def __init__(self, half_life_ms: int = limits.popularity_half_life_ms) -> None:
        self._half_life_ms = half_life_ms
        self._landmark_ms = 0
        self._weights: dict[str, float] = {}
        self._editions = [PopularItems(0, {})]
        """The newest one when ``extend`` was last called, and those of its events."""
        self.events = 0
        """Events folded so far."""

    def __len__(self) -> int:
        return len(self._weights)

    def add(self, item_id: str, timestamp_ms: int) -> None:
        """Fold one event."""
        self.extend([item_id], np.array([timestamp_ms], np.int64))

    def extend(self, item_ids: list[str], times_ms: NDArray[np.int64]) -> None:
        """Fold events: the item of each, and its event time."""
        del self._editions[:-1]
        start = 0
        while start < len(item_ids):
            until_edition = _next_edition(self._editions[-1].events) - self.events
            end = min(start + until_edition, len(item_ids))
            self._fold(item_ids, times_ms, start, end)
            self.events += end - start
            if end - start == until_edition:
                self._editions.append(PopularItems(self.events, self._weights.copy()))
            start = end

    def _fold(self, item_ids: list[str], times_ms: NDArray[np.int64], start: int, end: int) -> None:
        while start < end:
            if not self._weights:
                self._landmark_ms = int(times_ms[start])
            start = add_decayed(
                self._weights,
                item_ids,
                times_ms,
                start,
                end,
                self._landmark_ms,
                self._half_life_ms,
                _EXPONENT_MAX,
                limits.popularity_items_max,
            )
            if len(self._weights) > limits.popularity_items_max:
                self._evict()
            elif start < end:
                self._move_landmark(int(times_ms[start]))

    def as_of(self, events: int) -> PopularItems:
        """The last edition before more than ``events`` were counted, as far back as the last ``extend`` goes."""
        at = bisect_right(self._editions, events, key=_events_of) - 1
        return self._editions[max(at, 0)]

    def top(self, count: int, excluded: Container[str] = ()) -> list[tuple[str, float]]:
        """``PopularItems.top`` as of now, ranked anew."""
        return PopularItems(self.events, self._weights).top(count, excluded)

    def snapshot(self) -> bytes:
        """The counts of the most popular items as bytes, for ``restore``."""
        kept = {item: self._weights[item] for item in _rank(self._weights, limits.popularity_snapshot_items_max)}
        return msgspec.msgpack.encode(_Snapshot(1, self._landmark_ms, self.events, kept))

    @classmethod
    def restore(cls, data: bytes, half_life_ms: int = limits.popularity_half_life_ms) -> "Popularity":
        """The popularity that ``snapshot`` wrote.

        Raises:
            PopularityError: not a snapshot of schema 1, or with a weight that nothing can have.
        """
        try:
            read = msgspec.msgpack.decode(data, type=_Snapshot)
        except UNDECODABLE as error:
            raise PopularityError(f"no popularity snapshot: {error}") from None
        if read.schema != 1:
            raise PopularityError(f"popularity snapshot of schema {read.schema}; this version reads schema 1")
        if not all(0 <= weight < math.inf for weight in read.weights.values()):
            raise PopularityError("popularity snapshot with a weight that is no finite number from 0 on")
        popularity = cls(half_life_ms)
        popularity._landmark_ms, popularity.events, popularity._weights = read.landmark_ms, read.events, read.weights
        popularity._editions = [PopularItems(read.events, read.weights.copy())]
        return popularity

    def _move_landmark(self, landmark_ms: int) -> None:
        factor = 2.0 ** ((self._landmark_ms - landmark_ms) / self._half_life_ms)
        self._weights = {item: weight * factor for item, weight in self._weights.items() if weight * factor > 0.0}
        self._landmark_ms = landmark_ms

    def _evict(self) -> None:
        # A tenth at a time, so that the cost of choosing is spread over many events.
        heaviest = _rank(self._weights, limits.popularity_items_max * 9 // 10)
        self._weights = {item: self._weights[item] for item in heaviest}


def _rank(weights: dict[str, float], count: int) -> list[str]:
    """The ``count`` heaviest items, ties by item id."""
    least = -math.inf
    if count < len(weights):
        values = np.empty(len(weights))
        values_of(weights, values)
        least = float(np.partition(values, -count)[-count])
    items = keys_from(weights, least)
    return sorted(items, key=lambda item: (-weights[item], item))[:count]


def _events_of(edition: PopularItems) -> int:
    return edition.events


def _next_edition(events: int) -> int:
    """Events after which the edition follows that comes after ``events``."""
    return events + min(max(events // _EDITION_GROWTH_SHARE, 1), limits.popularity_ranking_events_max)

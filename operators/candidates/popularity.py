"""Popularity that moves with the stream: one exponentially decayed count per item."""

import math
from bisect import bisect_right
from collections.abc import Container, Sequence
from itertools import islice
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.kernels import add_decayed
from operators.wire import UNDECODABLE

__all__ = ["PopularItems", "Popularity", "PopularityError"]

_EXPONENT_MAX: Final = 64.0
_EDITION_GROWTH_SHARE: Final = 20
"""There is a new edition when the events have grown by one part in this many: it costs far more than an event."""
_RANKING_GROWTH: Final = 4
"""An edition whose ranking turns out too short ranks this many times as many."""


class PopularityError(ValueError):
    """Bytes that are no popularity snapshot."""


class _Snapshot(msgspec.Struct, array_like=True):
    schema: int
    landmark_ms: int
    events: int
    weights: dict[str, float]


class PopularItems:
    """Decayed counts as they were at one moment, ranked when they are asked for."""

    def __init__(self, events: int, items: Sequence[str], weights: NDArray[np.float64]) -> None:
        """The weight of each of the first items: neither may change any more while this is asked."""
        self.events: Final = events
        """Events that are counted."""
        self._items, self._weights = items, weights
        self._ranked: list[tuple[str, float]] = []

    def top(self, count: int, excluded: Container[str] = ()) -> list[tuple[str, float]]:
        """The ``count`` most popular items that are not excluded, with their share of the top item's weight."""
        while True:
            chosen = list(islice((pair for pair in self._ranked if pair[0] not in excluded), count))
            ranked = len(self._ranked)
            if len(chosen) == count or ranked == len(self._weights):
                return chosen
            # Few more than are asked for: most editions are asked once.
            self._ranked = _shares(self._items, self._weights, max(2 * count, _RANKING_GROWTH * ranked))


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
        self.events = 0
        """Events folded so far."""
        self._set([], np.empty(0))
        self._editions = [self._edition()]
        """The newest one when ``extend`` was last called, and those of its events."""

    def _set(self, items: list[str], weights: NDArray[np.float64]) -> None:
        # Editions keep the lists that they were made of: those only grow.
        self._items = items
        self._place_of = {item: place for place, item in enumerate(items)}
        self._room = weights
        """Weight of each item, and room for more."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def _weights(self) -> NDArray[np.float64]:
        return self._room[: len(self._items)]

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
                self._editions.append(self._edition())
            start = end

    def _edition(self) -> PopularItems:
        return PopularItems(self.events, self._items, self._weights.copy())

    def _fold(self, item_ids: list[str], times_ms: NDArray[np.int64], start: int, end: int) -> None:
        while start < end:
            if not self._items:
                self._landmark_ms = int(times_ms[start])
            if len(self._room) < len(self._items) + end - start:
                self._room = np.concatenate([self._weights, np.empty(len(self._items) + end - start)])
            start = add_decayed(
                self._place_of,
                self._items,
                self._room,
                item_ids,
                times_ms,
                start,
                end,
                self._landmark_ms,
                self._half_life_ms,
                _EXPONENT_MAX,
                limits.popularity_items_max,
            )
            if len(self._items) > limits.popularity_items_max:
                # A tenth at a time, so that the cost of choosing is spread over many events.
                self._keep(_heaviest(self._items, self._weights, limits.popularity_items_max * 9 // 10))
            elif start < end:
                self._move_landmark(int(times_ms[start]))

    def as_of(self, events: int) -> PopularItems:
        """The last edition before more than ``events`` were counted, as far back as the last ``extend`` goes."""
        at = bisect_right(self._editions, events, key=_events_of) - 1
        return self._editions[max(at, 0)]

    def top(self, count: int, excluded: Container[str] = ()) -> list[tuple[str, float]]:
        """``PopularItems.top`` as of now, ranked anew."""
        return PopularItems(self.events, self._items, self._weights).top(count, excluded)

    def snapshot(self) -> bytes:
        """The counts of the most popular items as bytes, for ``restore``."""
        heaviest = _heaviest(self._items, self._weights, limits.popularity_snapshot_items_max)
        kept = {self._items[place]: float(self._room[place]) for place in heaviest}
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
        popularity._landmark_ms, popularity.events = read.landmark_ms, read.events
        popularity._set(list(read.weights), np.array(list(read.weights.values()), np.float64))
        popularity._editions = [popularity._edition()]
        return popularity

    def _move_landmark(self, landmark_ms: int) -> None:
        self._room = self._weights * 2.0 ** ((self._landmark_ms - landmark_ms) / self._half_life_ms)
        self._keep(np.flatnonzero(self._room).tolist())
        self._landmark_ms = landmark_ms

    def _keep(self, places: list[int]) -> None:
        self._set([self._items[place] for place in places], self._room[places])


def _shares(items: Sequence[str], weights: NDArray[np.float64], count: int) -> list[tuple[str, float]]:
    """The ``count`` heaviest items with their shares of the top item's weight."""
    places = _heaviest(items, weights, count)
    top = (float(weights[places[0]]) if places else 0.0) or 1.0  # a weight of long ago may be none
    return [(items[place], share) for place, share in zip(places, (weights[places] / top).tolist(), strict=True)]


def _heaviest(items: Sequence[str], weights: NDArray[np.float64], count: int) -> list[int]:
    """Places of the ``count`` heaviest items, heaviest first, ties by item id."""
    places = np.arange(len(weights))
    if count < len(weights):
        # Not those at least as heavy: of weights that are no numbers that would be none, and `top` would ask for ever.
        places = np.flatnonzero(~(weights < np.partition(weights, -count)[-count]))
    names = [items[place] for place in places.tolist()]
    ranked = sorted(zip((-weights[places]).tolist(), names, places.tolist(), strict=True))
    return [place for _, _, place in ranked[:count]]


def _events_of(edition: PopularItems) -> int:
    return edition.events


def _next_edition(events: int) -> int:
    """Events after which the edition follows that comes after ``events``."""
    return events + min(max(events // _EDITION_GROWTH_SHARE, 1), limits.popularity_ranking_events_max)

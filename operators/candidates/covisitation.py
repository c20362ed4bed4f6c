"""Co-visitation: what users went on to after an item. Streams: an event touches the rows of the few items before it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.candidates.component import Component, Histories
from operators.interest import OUT_OF_VOCABULARY

__all__ = ["CoVisitation"]

_UNIT: Final = 4096
"""Weights are whole multiples of 1 / this: their sums are exact, and the same however the events were batched."""
_EVENTS_AT_ONCE: Final = 1024


@dataclass
class CoVisitation(Component):
    """Decayed counts of "i, then j within ``window_events``" in a bounded row of successors per item.

    An event j adds ``decay**d`` to the pair (i, j) of the item i that came d + 1 events before it. A row that is
    full gives up its weaker half (lossy counting, Manku and Motwani 2002), so that a newcomer always finds a place
    and can grow. A user's score of j is the sum over the newest ``window_events`` of
    ``decay**age * pair(i, j) / (count(i)**from_power * count(j)**to_power)``.
    """

    items: int
    """N: rows of the item matrix, with row 0."""
    window_events: int = 10
    decay: float = 0.8
    successors_max: int = limits.covisitation_successors_max
    from_power: float = 1.0
    to_power: float = 0.2

    def __post_init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.successors: NDArray[np.int32] = np.zeros((self.items, self.successors_max), np.int32)
        """(N, M) rows that followed each item, the places in use first; 0 where the place is free"""
        self.weights: NDArray[np.int64] = np.zeros((self.items, self.successors_max), np.int64)
        """(N, M) in units"""
        self.used: NDArray[np.int64] = np.zeros(self.items, np.int64)
        """(N,) places in use of each item's row"""
        self.counts: NDArray[np.int64] = np.zeros(self.items, np.int64)
        """(N,) events of each item"""
        self._units = np.round(_UNIT * self.decay ** np.arange(self.window_events)).astype(np.int64)

    def fit(self, histories: Histories) -> None:
        self.clear()
        order = np.argsort(histories.times_ms, kind="stable")
        for start in range(0, len(order), _EVENTS_AT_ONCE):
            events = order[start : start + _EVENTS_AT_ONCE]
            self.extend(histories.before(events, self.window_events), histories.rows[events])

    def update(self, before: Sequence[int], row: int, time_ms: int) -> None:
        newest = np.full((1, self.window_events), OUT_OF_VOCABULARY, np.int64)
        recent = before[-self.window_events :]
        newest[0, : len(recent)] = recent[::-1]
        self.extend(newest, np.array([row], np.int64))

    def extend(self, before: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Learn from events in their order: items before each (E, W), newest first, filled with row 0; its own (E,)."""
        np.add.at(self.counts, rows[rows != OUT_OF_VOCABULARY], 1)
        known = (before != OUT_OF_VOCABULARY) & (rows != OUT_OF_VOCABULARY)[:, None]
        pairs = (before * self.items + rows[:, None])[known]
        units = np.broadcast_to(self._units, before.shape)[known]
        keys, of_pair = np.unique(pairs, return_inverse=True)
        totals = np.bincount(of_pair, units).astype(np.int64)
        items, successors = keys // self.items, keys % self.items
        places = self._places(items, successors)
        new = places < 0
        full = self.used + np.bincount(items[new], minlength=self.items) > self.successors_max
        self._add(items, successors, totals, np.where(full[items], -2, places))
        for n in np.flatnonzero(full[pairs // self.items]):  # rare, and what goes depends on the order
            self._add_one(int(pairs[n] // self.items), int(pairs[n] % self.items), int(units[n]))

    def scores(self, users: Histories) -> NDArray[np.float32]:
        recent = users.newest(self.window_events)  # (U, W)
        share = self.decay ** np.arange(self.window_events) / _power(self.counts, self.from_power)[recent]
        share = np.where(recent == OUT_OF_VOCABULARY, 0, share / _UNIT).astype(np.float32)
        scores = np.zeros((users.users, self.items), np.float32)
        lines = np.arange(users.users)[:, None]
        for age in range(self.window_events):
            of_item = recent[:, age]
            # No item is twice among the successors of one item, so a plain += adds every one of them.
            scores[lines, self.successors[of_item]] += share[:, age, None] * self.weights[of_item].astype(np.float32)
        return scores / _power(self.counts, self.to_power)

    def strongest(self, items: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The successors of greatest weight of each item (I,), equal weights by row, and what each adds to a score.

        Returns rows (I, count), 0 where there is none, and scores (I, count) of an item that was the newest.
        """
        keys = np.sort(self.weights[items] * self.items + (self.items - 1 - self.successors[items]), axis=1)
        keys = keys[:, : -count - 1 : -1]
        weights = keys // self.items
        rows = np.where(weights > 0, self.items - 1 - keys % self.items, OUT_OF_VOCABULARY)
        return rows, weights / (_UNIT * self._popularity(items[:, None], rows))

    def shares(
        self, items: NDArray[np.int64], successors: NDArray[np.int64], distances: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """What one event of each successor, ``distances`` events after the item's next, adds to a score."""
        return self._units[distances] / (_UNIT * self._popularity(items, successors))

    def _popularity(self, items: NDArray[np.int64], successors: NDArray[np.int64]) -> NDArray[np.float64]:
        counts, following = np.maximum(self.counts[items], 1), np.maximum(self.counts[successors], 1)
        return counts**self.from_power * following**self.to_power

    def moved(self, kept: NDArray[np.int64], items: int) -> "CoVisitation":
        """A table of ``items`` rows that are numbered anew: row n is ``kept[n]`` (K,), the first of which is row 0."""
        other = replace(self, items=items)
        number = np.zeros(self.items, np.int64)
        number[kept] = np.arange(len(kept))
        other.counts[: len(kept)] = self.counts[kept]
        stays = (number[self.successors[kept]] > 0) & (self.weights[kept] > 0)
        front = np.argsort(~stays, axis=1, kind="stable")  # the places in use come first
        stays = np.take_along_axis(stays, front, 1)
        successors, weights = (np.take_along_axis(c[kept], front, 1) for c in (self.successors, self.weights))
        other.successors[: len(kept)] = np.where(stays, number[successors], 0)
        other.weights[: len(kept)] = np.where(stays, weights, 0)
        other.used[: len(kept)] = stays.sum(axis=1)
        return other

    def _places(self, items: NDArray[np.int64], successors: NDArray[np.int64]) -> NDArray[np.int64]:
        """(P,) place of each successor in its item's row, -1 where it has none."""
        found = self.successors[items] == successors[:, None]
        place = found.argmax(axis=1)
        return np.where(found[np.arange(len(items)), place], place, -1)

    def _add(
        self,
        items: NDArray[np.int64],
        successors: NDArray[np.int64],
        totals: NDArray[np.int64],
        places: NDArray[np.int64],
    ) -> None:
        """Add distinct pairs, sorted by item; place -1 asks for the next free one, -2 leaves the pair out."""
        old = places >= 0
        self.weights[items[old], places[old]] += totals[old]
        new = places == -1
        of_item = items[new]
        first = np.searchsorted(of_item, of_item)
        free = self.used[of_item] + np.arange(len(of_item)) - first
        self.successors[of_item, free], self.weights[of_item, free] = successors[new], totals[new]
        self.used += np.bincount(of_item, minlength=self.items)

    def _add_one(self, item: int, successor: int, unit: int) -> None:
        found = np.flatnonzero(self.successors[item] == successor)
        if not len(found) and self.used[item] == self.successors_max:
            self._halve(item)
        place = int(found[0]) if len(found) else int(self.used[item])
        self.used[item] += not len(found)
        self.successors[item, place] = successor
        self.weights[item, place] += unit

    def _halve(self, item: int) -> None:
        kept = self.successors_max // 2
        order = np.lexsort((self.successors[item], -self.weights[item]))[:kept]
        for column in (self.successors[item], self.weights[item]):
            column[:kept] = column[order]
            column[kept:] = 0
        self.used[item] = kept


def _power(counts: NDArray[np.int64], exponent: float) -> NDArray[np.float32]:
    return np.maximum(counts, 1).astype(np.float32) ** np.float32(exponent)

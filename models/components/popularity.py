"""Popularity: the same decayed counts that the worker keeps."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.fitted import Setting, Spec
from operators.candidates.component import Component, Histories
from operators.candidates.popularity import Popularity

__all__ = ["SPECS", "PopularItems"]

NEVER_MS: Final = 10**15
"""A half-life in which nothing decays: plain counts."""


@dataclass
class PopularItems(Component):
    """``operators.candidates.popularity`` as a component: every user has the same scores."""

    items: int
    half_life_ms: int = NEVER_MS
    counts: Popularity = field(default_factory=Popularity)

    def fit(self, histories: Histories) -> None:
        self.counts = Popularity(self.half_life_ms)
        order = np.argsort(histories.times_ms, kind="stable")
        ids = [str(row) for row in histories.rows[order].tolist()]
        self.counts.extend(ids, histories.times_ms[order])

    def update(self, before: object, row: int, time_ms: int) -> None:
        self.counts.add(str(row), time_ms)

    def scores(self, users: Histories) -> NDArray[np.float32]:
        one = np.zeros(self.items, np.float32)
        for row, share in self.counts.top(self.items):
            one[int(row)] = share
        return np.tile(one, (users.users, 1))


def _build(setting: Setting) -> PopularItems:
    return PopularItems(setting.items)


SPECS: Final = (
    Spec("popularity", _build),
    # Where the data has no clock, a time is a place from the end of its user's history, and so is a half-life.
    Spec("popularity-recent", _build, fitting=[{"half_life_ms": n} for n in (8, 32, 128, 512)]),
)

"""A few drawn histories over a small catalogue, and what brute-force oracles need of them."""

from itertools import pairwise

import numpy as np

from operators.candidates.component import Histories

__all__ = ["ITEMS", "drawn", "users_of"]

ITEMS = 9
"""Rows with row 0."""


def drawn(seed: int = 0, users: int = 25, longest: int = 12, *, repeats: bool = False) -> Histories:
    """Histories of items 1 to 8; without ``repeats`` no item is twice in one."""
    rng = np.random.default_rng(seed)
    if repeats:
        return Histories.of([rng.integers(1, ITEMS, rng.integers(1, longest)).tolist() for _ in range(users)])
    return Histories.of([(1 + rng.permutation(ITEMS - 1))[: rng.integers(1, ITEMS)].tolist() for _ in range(users)])


def users_of(histories: Histories) -> list[list[int]]:
    """The histories as plain lists."""
    return [histories.rows[a:b].tolist() for a, b in pairwise(histories.offsets.tolist())]

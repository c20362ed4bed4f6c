"""Sequences of unequal length laid out wave by wave, so that nothing is padded.

Wave t holds event t of every sequence that has one. With the sequences ordered by falling length each wave is a
prefix of the one before it, which is all that a recurrence needs to find the state before an event.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Packed", "pack", "split_filled"]


class Packed(NamedTuple):
    """P events of N sequences in wave order."""

    events: NDArray[np.int64]
    """(P,) position of each packed event in the columns it was taken from."""
    sequence: NDArray[np.int64]
    """(P,) sequence of each packed event, as numbered by the caller."""
    step: NDArray[np.int64]
    """(P,) place of each packed event in its sequence."""
    waves: list[int]
    """Events of each wave; never rising; sums to P."""
    ends: NDArray[np.int64]
    """(N,) packed position of the last event of each sequence, in the caller's order."""


def pack(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Packed:
    """Lay out N sequences; sequence j is positions ``starts[j]:starts[j] + lengths[j]`` of some columns, not empty."""
    order = np.argsort(-lengths, kind="stable")
    steps = np.arange(int(lengths.max(initial=0)))
    present = steps[:, None] < lengths[order]  # (T, N)
    step, place = np.nonzero(present)
    waves = present.sum(axis=1)  # (T,)
    wave_starts = np.cumsum(waves) - waves
    ends = np.empty(len(lengths), np.int64)
    ends[order] = wave_starts[lengths[order] - 1] + np.arange(len(lengths))
    sequence = order[place]
    return Packed(starts[sequence] + step, sequence, step, waves.tolist(), ends)


def split_filled(things: NDArray[np.int64], lengths: NDArray[np.int64], events_max: int) -> list[NDArray[np.int64]]:
    """``things`` (n, ...) of ``lengths`` (n,) events each, in their order, split wherever ``events_max`` are full."""
    filled = (np.cumsum(lengths) - 1) // events_max
    return np.split(things, np.flatnonzero(np.diff(filled)) + 1)

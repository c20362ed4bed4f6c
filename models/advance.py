"""The encoder's pass over new events on a CPU: the products of all at once, and the recurrence in between."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.sessions import run_session
from operators import limits
from operators.interest import PackedJobs
from operators.kernels import recur

__all__ = ["Advance", "calls_of"]


class Advance(NamedTuple):
    """``operators.interest.Encoder.advance`` on a CPU."""

    stages: Sequence[Any]
    """Sessions of ``models.graphs.stage_graph``, one more than there are blocks."""
    decay: NDArray[np.float32]
    """(blocks, 2, H) real and imaginary parts of the eigenvalues."""
    item_embeddings: NDArray[np.float32]
    """(N, D)."""

    def __call__(self, packed: PackedJobs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        states = np.array(packed.hidden, np.float32, order="C")
        vectors = np.empty((len(states), self.item_embeddings.shape[1]), np.float32)
        for users, part in calls_of(packed):
            vectors[users] = self._vectors(part, states[users])
        if packed.kept is not None:
            packed.kept[:] = 0
        return states, vectors

    def _vectors(self, packed: PackedJobs, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """The states are changed in place."""
        first, *between, last = self.stages
        of_block = 2 * self.decay.shape[2]
        events = {"item_rows": packed.rows, "event_types": packed.types, "gaps": packed.gaps}
        x, h = run_session(first, events | {"item_embeddings": self.item_embeddings}, ("x", "u"))
        recur(h, packed.ends, self.decay[0], states, 0)
        for block, stage in enumerate(between, 1):
            x, h = run_session(stage, {"x_before": x, "h": h}, ("x", "u"))
            recur(h, packed.ends, self.decay[block], states, block * of_block)
        (vectors,) = run_session(last, {"x_before": x, "h": h, "places": packed.ends - 1}, ("vector",))
        return vectors


def calls_of(packed: PackedJobs) -> Iterator[tuple[slice, PackedJobs]]:
    """Users whose events fill a call, and what is of them; events of one user are in one call."""
    hidden, rows, types, gaps, ends, kept = packed
    cuts = np.flatnonzero(np.diff((ends - 1) // limits.encoder_call_events_max)) + 1
    for start, end in pairwise([0, *cuts.tolist(), len(ends)]):
        if start == end:  # nobody at all
            return
        users, before = slice(start, end), int(ends[start - 1]) if start else 0
        events = slice(before, int(ends[end - 1]))
        part_kept = None if kept is None else kept[users]
        yield (
            users,
            PackedJobs(hidden[users], rows[events], types[events], gaps[events], ends[users] - before, part_kept),
        )

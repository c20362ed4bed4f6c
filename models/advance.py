"""The encoder's pass over new events: the products of all of them at once, and the recurrence in between."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.sessions import array_of, run_session
from operators import limits
from operators.interest import PackedJobs
from operators.kernels import recur

__all__ = ["Advance", "OnDevice", "Recurrence", "in_place"]


class Recurrence(Protocol):
    """What goes event by event."""

    def __call__(
        self, u: Any, ends: NDArray[np.int64], decay: NDArray[np.float32], states: NDArray[np.float32], first: int
    ) -> Any:
        """``operators.kernels.recur``; u and h are what ``run_session`` gives and takes."""
        ...


def in_place(
    u: Any, ends: NDArray[np.int64], decay: NDArray[np.float32], states: NDArray[np.float32], first: int
) -> Any:
    """The ``Recurrence`` of the CPU."""
    h = array_of(u)
    recur(h, ends, decay, states, first)
    return h


class OnDevice:
    """The ``Recurrence`` by ``models.graphs.recurrence_graph``: events stay on the device, states travel.

    Args:
        session: of the graph.
        device: "cpu" or "cuda".
    """

    def __init__(self, session: Any, device: str) -> None:
        self._session, self._device = session, device

    def __call__(
        self, u: Any, ends: NDArray[np.int64], decay: NDArray[np.float32], states: NDArray[np.float32], first: int
    ) -> Any:
        lengths = np.diff(ends, prepend=0)
        firsts = ends - lengths
        part = slice(first, first + 2 * decay.shape[1])
        inputs: dict[str, Any] = {
            "u": u,
            "positions": np.arange(ends[-1]) - np.repeat(firsts, lengths),
            "firsts": firsts,
            "places": ends - 1,
            "start": states[:, part],
            "decay": decay,
            "doublings": np.array(int(lengths.max() - 1).bit_length(), np.int64),
        }
        h, end = run_session(self._session, inputs, ("h", "end"), self._device)
        states[:, part] = array_of(end)
        return h


class Advance(NamedTuple):
    """``operators.interest.Encoder.advance`` on one device."""

    stages: Sequence[Any]
    """Sessions of ``models.graphs.stage_graph``, one more than there are blocks."""
    recurrence: Recurrence
    decay: NDArray[np.float32]
    """(blocks, 2, H) real and imaginary parts of the eigenvalues."""
    item_embeddings: Any
    """(N, D) on the device."""
    vector_width: int
    device: str

    def __call__(self, packed: PackedJobs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        states = np.array(packed.hidden, np.float32, order="C")
        vectors = np.empty((len(states), self.vector_width), np.float32)
        for users, part in _parts(packed):
            vectors[users] = self._vectors(part, states[users])
        return states, vectors

    def _vectors(self, packed: PackedJobs, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """The states are changed in place."""
        first, *between, last = self.stages
        of_block = 2 * self.decay.shape[2]
        events = {"item_rows": packed.rows, "event_types": packed.types, "gaps": packed.gaps}
        x, u = run_session(first, events | {"item_embeddings": self.item_embeddings}, ("x", "u"), self.device)
        h = self.recurrence(u, packed.ends, self.decay[0], states, 0)
        for block, stage in enumerate(between, 1):
            x, u = run_session(stage, {"x_before": x, "h": h}, ("x", "u"), self.device)
            h = self.recurrence(u, packed.ends, self.decay[block], states, block * of_block)
        (vectors,) = run_session(last, {"x_before": x, "h": h, "places": packed.ends - 1}, ("vector",))
        return array_of(vectors)


def _parts(packed: PackedJobs) -> Iterator[tuple[slice, PackedJobs]]:
    """Users whose events fill a call, and what is of them; events of one user are in one call."""
    hidden, rows, types, gaps, ends = packed
    cuts = np.flatnonzero(np.diff((ends - 1) // limits.encoder_call_events_max)) + 1
    for start, end in pairwise([0, *cuts.tolist(), len(ends)]):
        if start == end:  # nobody at all
            return
        users, before = slice(start, end), int(ends[start - 1]) if start else 0
        events = slice(before, int(ends[end - 1]))
        yield users, PackedJobs(hidden[users], rows[events], types[events], gaps[events], ends[users] - before)

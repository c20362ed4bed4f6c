"""Which user's state each slot of a device holds. No slot is looked up by a name that another state could have."""

import itertools
from typing import Final

import numpy as np
from numpy.typing import NDArray

from operators import limits

__all__ = ["FRESH", "SCRATCH", "Slots"]

FRESH: Final = 0
"""The slot of a state that nothing has happened to: zeros, never written."""
SCRATCH: Final = 1
"""The slot that nobody reads."""
_RESERVED: Final = 2
_BITS: Final = 20

"""Of a name that are the slot's."""
_CALLS: Final = itertools.count(1)
"""Numbers of this process: two encoders, or one before and after its sessions were made anew, share none."""


class Slots:
    """Names of states (``operators.interest.PackedJobs.kept``): the number of the call that made one, and its slot.

    So a name of a state that was overwritten, or of another encoder's, is known as such.
    """

    def __init__(self) -> None:
        self.count: Final = _RESERVED + limits.device_users_max
        assert self.count <= 2**_BITS  # noqa: S101  # a bound of limits.py that no name could hold
        self._names = np.zeros(self.count, np.int64)
        self._next = 0

    def found(self, names: NDArray[np.int64]) -> NDArray[np.int64]:
        """The slots (B,) of the states, ``FRESH`` for those that are not here."""
        slots = names & (2**_BITS - 1)
        slots = np.where(slots < self.count, slots, FRESH)
        return np.where((names != 0) & (self._names[slots] == names), slots, FRESH)

    def taken(self, found: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots (B,) for the states of a call: those ``found``, and for the others the next ones in turn.

        What they held is no longer found, and nothing new is until they are named.
        """
        known = found[found != FRESH]
        missing = np.flatnonzero(found == FRESH)
        wanted = len(missing) + len(known)  # so many that enough are left when the known ones are passed over
        users_max = self.count - _RESERVED
        in_turn = (self._next + np.arange(min(wanted, users_max))) % users_max + _RESERVED
        free = in_turn[~np.isin(in_turn, known)][: len(missing)]
        slots = found.copy()
        slots[missing] = free
        if len(free):
            self._next = int(free[-1]) - _RESERVED + 1
        self._names[slots] = 0
        return slots

    def name(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Names (B,) of what the slots hold now."""
        names = (next(_CALLS) << _BITS) | slots
        self._names[slots] = names
        return names

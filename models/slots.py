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
_NOBODY: Final = 0
_NEVER: Final = -1

_NUMBERS: Final = itertools.count(1)
"""Of this process: two encoders, or one before and after its sessions were made anew, share none."""


class Slots:
    """Names of states (``operators.interest.PackedJobs.kept``): a number that no other has, and the slot.

    So a name of a state that was overwritten, or of another encoder's, is known as such.
    """

    def __init__(self) -> None:
        self.count: Final = _RESERVED + limits.device_users_max
        assert self.count <= 2**_BITS  # noqa: S101  # a bound of limits.py that no name could hold
        self._names = np.full(self.count, _NOBODY, np.int64)
        self._names[:_RESERVED] = _NEVER
        self._next = 0

    def found(self, names: NDArray[np.int64]) -> NDArray[np.int64]:
        """The slots (B,) of the states, ``FRESH`` for those that are not here."""
        slots = names & (2**_BITS - 1)
        slots = np.where(slots < self.count, slots, FRESH)
        return np.where((names > _NOBODY) & (self._names[slots] == names), slots, FRESH)

    def taken(self, count: int, keep: NDArray[np.int64]) -> NDArray[np.int64]:
        """So many slots to write to: those that hold nobody, then others in turn but for those to ``keep``.

        Whom they held is no longer found. They are free again where they are not named.
        """
        free = np.flatnonzero(self._names == _NOBODY)[:count]
        short = count - len(free)
        if not short:
            return free
        users_max = self.count - _RESERVED
        looked_at = min(count + len(keep), users_max)
        in_turn = (self._next + np.arange(looked_at)) % users_max + _RESERVED
        others = in_turn[(self._names[in_turn] != _NOBODY) & ~np.isin(in_turn, keep)][:short]
        self._next = int(others[-1]) - _RESERVED + 1
        self._names[others] = _NOBODY
        return np.concatenate([free, others])

    def name(self, slots: NDArray[np.int64], instead_of: NDArray[np.int64]) -> NDArray[np.int64]:
        """Names (B,) of what the slots hold now, which is of the users that were in the slots ``instead_of``."""
        self._names[instead_of[instead_of != FRESH]] = _NOBODY
        names = (next(_NUMBERS) << _BITS) | slots
        self._names[slots] = names
        return names

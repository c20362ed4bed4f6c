from array import array
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

class History(Protocol):
    """What is changed of an ``operators.state.UserState``."""

    item_ids: bytes
    types: bytearray
    times_ms: array[int]
    fingerprints: array[int]
    rows: array[int] | None

_State = TypeVar("_State", bound=History)

Past = tuple[list[str], bytes, bytes, bytes, bytes | None]
"""``operators.state.Past``."""

def extend_history(state: History, events: Past, start: int, end: int, events_max: int) -> None:
    """Add the events from ``start`` up to ``end``, and take the oldest of more than ``events_max`` away.

    Args:
        state: an error leaves it alone.
        events: with rows where the history has some.

    Raises:
        ValueError: columns of other lengths, no such events, or fewer ids than events.
        TypeError: arrays of other numbers.
        BufferError: somebody looks at the bytes of ``types``.
    """
    ...

def extend_histories(
    states: list[_State], events: Past, bounds: NDArray[np.int64], wanted: NDArray[np.uint8], events_max: int
) -> None:
    """``extend_history`` of every state n that is wanted, with the events from ``bounds[n]`` up to ``bounds[n + 1]``.

    Raises:
        ValueError: bounds of other states; and as ``extend_history``, when the states before have their events.
        TypeError: as ``extend_history``.
    """
    ...

def any_known(
    fingerprints: NDArray[np.uint64],
    bounds: NDArray[np.int64],
    histories: list[array[int]],
    known: NDArray[np.uint8],
) -> None:
    """Find the users of whose events an id stands twice in history and batch.

    Args:
        fingerprints: of the events' ids, 0 for none, user by user.
        bounds: the events of user n are those from ``bounds[n]`` up to ``bounds[n + 1]``.
        histories: fingerprints of each user's history, of type code Q.
        known: (U,) set to 1 or 0.
    """
    ...

def newest_first(histories: list[array[int]], newest: NDArray[np.int64]) -> None:
    """Set each line of ``newest`` (B, H) to the last numbers of its history, of type code q, and 0 for the rest."""
    ...

"""What lists are made of: users as they were at one moment, whatever is folded into their states next."""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.histories import newest_first
from operators.interest import Encoder
from operators.state import UserState

__all__ = ["Tastes"]


class Tastes(NamedTuple):
    """B users; nothing that changes a state changes this."""

    is_known: list[bool]
    """Whether the encoder knows an item of the history, so that the vector says something."""
    vectors: list[NDArray[np.float32] | None]
    """(D,) interest vector of each; None before the first event."""
    recent: NDArray[np.int64]
    """(B, H) rows of the histories in the item matrix, newest first, filled with row 0."""
    item_ids: list[bytes]
    """As ``UserState.item_ids``."""

    @classmethod
    def of(cls, states: Sequence[UserState], encoder: Encoder) -> "Tastes":
        """The users of the states as they are now."""
        histories = [_rows_of(state, encoder) for state in states]
        recent = np.empty((len(states), min(max(map(len, histories), default=0), limits.history_events_max)), np.int64)
        newest_first(histories, recent)
        return cls(
            [state.known_count > 0 for state in states],
            [state.vector for state in states],
            recent,
            [state.item_ids for state in states],
        )


def _rows_of(state: UserState, encoder: Encoder) -> "array[int]":
    """Rows of the history's items, oldest first; looked up once while the state is cached."""
    if state.rows is None:
        state.rows = array("q", encoder.rows_of(state.history_items).tobytes())
    return state.rows

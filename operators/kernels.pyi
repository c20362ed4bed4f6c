import numpy as np
from numpy.typing import NDArray

def add_decayed(
    place_of: dict[str, int],
    items: list[str],
    weights: NDArray[np.float64],
    item_ids: list[str],
    times_ms: NDArray[np.int64],
    start: int,
    end: int,
    landmark_ms: int,
    half_life_ms: int,
    exponent_max: float,
    items_max: int,
) -> int:
    """Add ``2**((time - landmark) / half-life)`` to the weight of each event's item, from place ``start`` to ``end``.

    A new item is added to ``items``, and its place there to ``place_of``.

    Returns where it stopped: at ``end``, before an event whose exponent would be beyond ``exponent_max``, or behind
    one that made the items more than ``items_max``.

    Raises:
        ValueError: columns of other lengths, another number of places than of items, or no room for a weight of each
            event.
    """
    ...

def rows_in(row_of: dict[str, int], item_ids: list[str], rows: NDArray[np.int64]) -> None:
    """Write the row of each item, 0 for those that have none.

    Raises:
        ValueError: room for another number of rows.
    """
    ...

def occurrences(rows: NDArray[np.int64], counts: NDArray[np.int64], first: NDArray[np.uint8]) -> None:
    """Set ``counts`` to how often each of ``rows`` (B, H) stands in its line, ``first`` to whether it is the first."""
    ...

def dots(
    vectors: NDArray[np.float32], matrix: NDArray[np.float32], rows: NDArray[np.int64], scores: NDArray[np.float32]
) -> None:
    """Set ``scores`` (B, X) to the inner products of ``vectors`` (B, D) with the rows of ``matrix`` (N, D).

    A user's numbers do not depend on the others of the batch. Row 0, and rows that are none, give 0.
    """
    ...

def pair_dots(
    matrix: NDArray[np.float32],
    rows: NDArray[np.int64],
    other: NDArray[np.float32],
    others: NDArray[np.int64],
    products: NDArray[np.float32],
) -> None:
    """Set ``products`` (B, k, E) to the inner products of ``rows`` (B, k) of one with ``others`` (B, E) of the other.

    Rows that are none give 0.
    """
    ...

def recur(
    events: NDArray[np.float32],
    ends: NDArray[np.int64],
    decay: NDArray[np.float32],
    states: NDArray[np.float32],
    first: int,
) -> None:
    """The linear recurrence h = decay * h + u over the events of many users, in complex numbers and in place.

    Args:
        events: (P, 2H), real halves first, user by user: u of each event becomes the state after it.
        ends: (B,) the events of user n are those up to ``ends[n]``, from where the user's before end; each has some.
        decay: (2, H) real and imaginary parts of the eigenvalues.
        states: (B, S); 2H columns from ``first`` on are the states before, and become those after the last event.

    Raises:
        ValueError: arrays of other shapes, or ends that are not of the events.
    """
    ...

def strongest(
    effects: NDArray[np.float32],
    recent: NDArray[np.int64],
    rows: NDArray[np.int64],
    own: NDArray[np.float32],
    causes: NDArray[np.int64],
    greatest: NDArray[np.float32],
) -> None:
    """Find the event that moved each place of each list most; the newest of equal ones.

    Args:
        effects: (B, k, E) of the newest E events of each user on each place.
        recent: (B, H) rows of the events, newest first, filled with row 0; H >= E.
        rows: (B, k) of the lists.
        own: (H + 1,) what is added for a place's own events, by how many of them there are.
        causes: (B, k) set to the row of the event, 0 where there is none.
        greatest: (B, k) set to its effect, -inf where there is none.
    """
    ...

def caused_by(
    openings: list[bytes],
    partitions: NDArray[np.int64],
    types: NDArray[np.int64],
    offsets: NDArray[np.int64],
    bounds: NDArray[np.int64],
) -> list[bytes]:
    """What each user's list is caused by, as JSON.

    Args:
        openings: of each type: the object of an event up to the number of its partition.
        partitions: (U,) of the users.
        types, offsets: (E,) of the events, user by user.
        bounds: (U + 1,) the events of user n are those from ``bounds[n]`` up to ``bounds[n + 1]``.

    Raises:
        ValueError: bounds beyond the events, a type without an opening, or a negative number.
    """
    ...

"""What a batch asks of the world: plain data."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from operators.batches import DeadLetter, UserKey

__all__ = ["NO_EFFECTS", "Counts", "Effects", "Erase", "Publish", "PutState"]


class PutState(NamedTuple):
    """A user's new state, encoded."""

    user: UserKey
    value: bytes


class Publish(NamedTuple):
    """A list to publish, encoded."""

    user: UserKey
    value: bytes


class Erase(NamedTuple):
    """An erasure that was carried out, and the receipt that is published when nothing else is left to do.

    A user with newer events has a state and a list that were made of those, among the effects of the batch.
    """

    user: UserKey
    husk: tuple[bytes, bytes] | None
    """Key and value of what stays of a user of whom nothing else does: state and list go. None for another user."""
    next_offset: int
    """Fence of the erase topic behind the request."""
    receipt: tuple[bytes, bytes]
    """Key and value."""


class Counts(NamedTuple):
    """What became of a batch's records; those from ``folded`` to ``erasures`` add up to ``records``."""

    records: int = 0
    folded: int = 0
    duplicates: int = 0
    late: int = 0
    rejected: int = 0
    erased: int = 0
    erasures: int = 0
    unknown_items: int = 0
    popularity_lists: int = 0
    degraded_lists: int = 0
    yielded_lists: int = 0
    """Of those, the ones that the encoder had to yield; the others it failed."""


class Effects(NamedTuple):
    """What a batch asks of the world: plain data."""

    puts: list[PutState]
    lists: list[Publish]
    dead_letters: list[DeadLetter]
    counts: Counts
    erasures: Sequence[Erase] = ()


NO_EFFECTS: Final = Effects([], [], [], Counts())

"""What the trainer learns from: batches of packed events with the items that followed, and a validation score."""

from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.encoder import ItemEncoder
from models.metrics import Scores

__all__ = ["Batch", "Split", "Task"]

Split = Literal["validation", "test"]


class Batch(NamedTuple):
    """P packed events (see ``models.packing``), Q of them asked for what follows."""

    rows: NDArray[np.int64]
    types: NDArray[np.int64]
    gaps: NDArray[np.int64]
    waves: list[int]
    places: NDArray[np.int64]
    """(Q,) packed positions whose vector must rank its targets first."""
    pair_position: NDArray[np.int64]
    """Index into ``places`` of each target, rising."""
    pair_row: NDArray[np.int64]
    """Item row of each target."""


class Task(Protocol):
    """A data set with its protocol."""

    @property
    def items(self) -> list[str]:
        """Item id of each row of the item matrix."""
        ...

    @property
    def protocol(self) -> str:
        """What ``score`` ranks against what, in words."""
        ...

    def popularity(self) -> NDArray[np.float64]:
        """How often each row (N,) is a training target."""
        ...

    def events(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """User and row (n,) of every training event, grouped by user, oldest first."""
        ...

    def plan(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        """The sequences of each batch of one epoch."""
        ...

    def batch(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """The batch of one entry of ``plan``."""
        ...

    def score(self, model: ItemEncoder, split: Split) -> Scores:
        """Scores of held-out targets; leaves no gradient."""
        ...

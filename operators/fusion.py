"""What a list is fused of: the weights that a model may carry, and the sparse bonuses that they give."""

from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from operators import limits
from operators.interest import OUT_OF_VOCABULARY, Encoder
from operators.kernels import occurrences

__all__ = ["SOURCES", "Bonuses", "CoVisitationWeights", "Fused", "Fusion", "repeats", "with_bonuses"]

Weight = Annotated[float, Meta(ge=0, le=limits.boost_max)]


class CoVisitationWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``weight * log(1 + scale * share)`` is what co-visitation adds to an item's score."""

    weight: Weight
    scale: Annotated[float, Meta(gt=0, le=1e6)]
    new_items: Annotated[float, Meta(ge=-limits.boost_max, le=limits.boost_max)] | None = None
    """Score of an item that the model does not know, over that of the encoder's last place; None: never in a list of a
    user whom the model knows."""


class Fusion(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Weights chosen for one model."""

    repeat_weight: Weight
    covisitation: CoVisitationWeights | None = None
    chosen_on: str = ""
    """In words: what was replayed, and what it came to with these weights and without co-visitation."""


class Bonuses(NamedTuple):
    """What is added to the scores of a few items of each of B users, never below zero: (B, X) each."""

    rows: NDArray[np.int64]
    """No row is twice in a line but ``OUT_OF_VOCABULARY``, which stands for nothing; below it, new items."""
    history: NDArray[np.float32]
    covisitation: NDArray[np.float32]

    def joined(self, other: "Bonuses") -> "Bonuses":
        """Both; what an item has in both is added up."""
        twice = (other.rows[:, :, None] == self.rows[:, None, :]) & (other.rows != OUT_OF_VOCABULARY)[:, :, None]
        history, covisitation = (
            np.concatenate([mine + np.einsum("bo,bom->bm", theirs, twice), theirs], axis=1)
            for mine, theirs in ((self.history, other.history), (self.covisitation, other.covisitation))
        )
        rows = np.concatenate([self.rows, np.where(twice.any(axis=2), OUT_OF_VOCABULARY, other.rows)], axis=1)
        return Bonuses(rows, history, covisitation)


SOURCES: Final = ("encoder", "history", "co-visitation")


class Fused(NamedTuple):
    """The best k of B users: (B, k) each."""

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    sources: NDArray[np.int64]
    """Places in ``SOURCES``: an item that is among the encoder's best k anyway, or the greater of its bonuses."""


def repeats(recent: NDArray[np.int64], weight: float) -> Bonuses:
    """``weight * log(1 + times in the history)`` for the items of the histories (B, H), filled with row 0."""
    times, first = _occurrences(recent)
    history = np.float32(weight) * np.log1p(times.astype(np.float32))
    return Bonuses(np.where(first, recent, OUT_OF_VOCABULARY), history, np.zeros(recent.shape, np.float32))


def with_bonuses(
    best: Fused,
    bonuses: Bonuses,
    vectors: NDArray[np.float32],
    encoder: Encoder,
    new_items: NDArray[np.float32] | None = None,
) -> Fused:
    """The exact best k once the bonuses are added to the encoder's ``best`` k for ``vectors`` (B, D).

    Only items of the bonuses gain, so that any other of the new best k is among the old ones.

    Args:
        new_items: (B,) score of a new item before its bonus; None where there are none.
    """
    of_bonus = np.maximum(bonuses.rows, OUT_OF_VOCABULARY)
    own = encoder.scores_of(vectors, of_bonus)
    if new_items is not None:
        own = np.where(bonuses.rows < OUT_OF_VOCABULARY, new_items[:, None], own)
    own += bonuses.history + bonuses.covisitation
    own = np.where(bonuses.rows != OUT_OF_VOCABULARY, own, np.float32(-np.inf))
    scores, rows, _ = best
    equal = rows[:, :, None] == bonuses.rows[:, None, :]
    both = np.concatenate([own, np.where(equal.any(axis=2), np.float32(-np.inf), scores)], axis=1)
    sources = np.where(bonuses.history >= bonuses.covisitation, 1, 2) * ~equal.any(axis=1)
    at = np.arange(len(both))[:, None], np.argsort(-both, axis=1, kind="stable")[:, : scores.shape[1]]
    return Fused(
        both[at],
        np.concatenate([bonuses.rows, rows], axis=1)[at],
        np.concatenate([sources, np.zeros(rows.shape, np.int64)], axis=1)[at],
    )


def _occurrences(recent: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """How often each row stands in its user's history, and whether it stands there for the first time: (B, H) each."""
    counts, first = np.empty(recent.shape, np.int64), np.empty(recent.shape, np.uint8)
    occurrences(np.ascontiguousarray(recent), counts, first)
    return counts, first.astype(np.bool_)

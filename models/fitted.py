"""What the components of ``models.components`` share: how one is declared, and the sparse matrix of their histories."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import sparse

from operators.candidates.component import Component, Histories

__all__ = ["AS_IT_IS", "Options", "Setting", "Spec", "decayed", "history_matrix", "varied"]

Options = Mapping[str, Any]
"""Values of a component's fields."""

AS_IT_IS: Final[tuple[Options, ...]] = ({},)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a component may be built from, beside the histories."""

    items: int
    """N: rows of the item matrix, with row 0."""
    item_ids: Sequence[str]
    """(N,) id of each row"""
    texts: Sequence[str] | None = None
    """(N,) what is known of each item in words"""
    encoder: Path | None = None
    """Artefact of a trained encoder."""
    refit_encoder: Path | None = None
    """That of the same training on the validation targets too; judged in its place under the protocol of refitting."""
    seed: int = 0


def _always(_setting: Setting) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Spec:
    """A component and what is tried of it: the options with the best validation NDCG@10 are kept."""

    name: str
    build: Callable[[Setting], Component]
    fitting: Sequence[Options] = AS_IT_IS
    """Each is fitted."""
    scoring: Sequence[Options] = AS_IT_IS
    """Each is tried on every fit; it changes nothing that was learned."""
    missing: Callable[[Setting], str] = field(default=_always)
    """What the setting lacks for this component; empty where it lacks nothing."""
    seeded: bool = False
    """Another seed gives another result."""


def varied(component: Component, options: Options) -> Component:
    """A copy with other field values that shares what was learned."""
    changed = copy.copy(component)
    for name, value in options.items():
        if not hasattr(component, name):
            raise AttributeError(f"{type(component).__name__} has no option {name!r}")
        setattr(changed, name, value)
    return changed


def decayed(users: Histories, decay: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """(n,) weight ``decay**age`` of each event, its age counted in newer events of the same user."""
    return (np.float32(decay) ** users.age_events).astype(np.float32)


def history_matrix(users: Histories, items: int, weights: Any | None = None) -> Any:
    """CSR (U, N): an item's greatest weight in the history, 1 without weights."""
    ones = np.ones(len(users.rows), np.float32) if weights is None else weights
    matrix: Any = sparse.csr_matrix((ones, users.rows, users.offsets), shape=(users.users, items))
    if matrix.has_canonical_format:
        return matrix
    # A repeated item counts once, by its newest event: that is the one with the greatest weight.
    order = np.lexsort((-ones, users.rows, users.user_of_event))
    keys = (users.user_of_event * items + users.rows)[order]
    first = order[np.r_[True, keys[1:] != keys[:-1]]] if len(keys) else order
    return sparse.csr_matrix((ones[first], (users.user_of_event[first], users.rows[first])), shape=(users.users, items))

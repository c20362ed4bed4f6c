"""Item embeddings foretold from what is known of the items beside their events."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from operators.interest import OUT_OF_VOCABULARY, Encoder

__all__ = ["content_rows"]

_RIDGE: Final = 10.0
"""Items' worth of doubt in every attribute."""


def content_rows(
    encoder: Encoder, attributes: Mapping[str, frozenset[str]], item_ids: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """(D,) embedding of each of ``item_ids`` that has attributes: ridge regression over the items of the model.

    An item's features are its attributes, scaled to length 1; what is foretold is the departure from the mean row.
    """
    known = [item_id for item_id in attributes if encoder.row_of(item_id) != OUT_OF_VOCABULARY and attributes[item_id]]
    wanted = [item_id for item_id in item_ids if attributes.get(item_id)]
    if not known or not wanted:
        return {}
    names = sorted({name for item_id in known for name in attributes[item_id]})
    place = {name: n for n, name in enumerate(names)}

    def features(items: Sequence[str]) -> NDArray[np.float64]:
        found = np.zeros((len(items), len(names)))
        for line, item_id in zip(found, items, strict=True):
            at = [place[name] for name in attributes[item_id] if name in place]
            line[at] = max(len(at), 1) ** -0.5
        return found

    rows = encoder.embeddings(encoder.rows_of(known)).astype(np.float64)
    mean = rows.mean(axis=0)
    given = features(known)
    doubt = _RIDGE * np.eye(len(names))
    solve: Any = np.linalg.solve  # its types are not known
    weights: NDArray[np.float64] = solve(given.T @ given + doubt, given.T @ (rows - mean))
    return dict(zip(wanted, (mean + features(wanted) @ weights).astype(np.float32), strict=True))

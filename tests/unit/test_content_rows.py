"""models.content_rows against least squares."""

import numpy as np
from numpy.typing import NDArray

from models.content_rows import content_rows
from tests.fakes import FakeEncoder, items

WIDTH = 6
KNOWN = 12


def test_rows_foretold_from_content_are_those_of_least_squares() -> None:
    encoder = FakeEncoder(items(KNOWN))
    kinds = {f"item-{n}": frozenset({f"kind-{n % 3}", f"make-{n % 2}"}) for n in range(KNOWN)}
    asked = {"x": frozenset({"kind-1", "make-0"}), "y": frozenset({"never heard of"}), "z": frozenset[str]()}
    found = content_rows(encoder, kinds | asked, ["x", "y", "z"])
    names = sorted(set[str]().union(*kinds.values()))
    given = np.array([[(name in kinds[item]) / np.sqrt(2) for name in names] for item in items(KNOWN)])
    rows = encoder.matrix[1:].astype(np.float64)
    mean = rows.mean(axis=0)
    doubt = np.sqrt(10) * np.eye(len(names)), np.zeros((len(names), WIDTH))
    inverse: NDArray[np.float64] = np.linalg.pinv(np.r_[given, doubt[0]])
    weights = inverse @ np.r_[rows - mean, doubt[1]]
    of_x = np.array([(name in asked["x"]) / np.sqrt(2) for name in names])
    np.testing.assert_allclose(found["x"], mean + of_x @ weights, rtol=1e-5)
    np.testing.assert_allclose(found["y"], mean, rtol=1e-5)
    assert "z" not in found
    assert content_rows(encoder, kinds, []) == {}

"""A search by a coarse copy of the catalogue: faiss' four-bit product codes choose candidates, exact scores rank them.

Two coordinates share a code, so a scan reads an eighth of the float32 matrix. A score is never wrong, an item may be
missing. How many candidates are scored exactly is chosen on other vectors than those that are measured.

An inverted file has no use here: by inner product with long, popular rows no cluster can be left out (tried with
``IVF,Flat``: all of its clusters for 0.99), and a graph of neighbours finds nothing at all (``HNSW``).
"""

import importlib
import time
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.metrics import recall_of
from streams.bench.exact import Catalogue, Search, extended

__all__ = ["Approximate", "build"]

_RECALL_MIN: Final = 0.998
"""Of the exact ten, the share that is found for the vectors that the number of candidates is chosen by. 0.99 is wanted
of others, which find a little less, and of a large catalogue there are few of both."""
_CANDIDATES_MAX: Final = 131_072
_TRAINED_ITEMS: Final = 50_000


class Approximate(NamedTuple):
    """A search, and what it took to have it."""

    search: Search
    candidates: int
    """Items scored exactly for a list."""
    build_s: float


def build(catalogue: Catalogue, k: int, vectors: NDArray[np.float32], exact: NDArray[np.int64]) -> Approximate:
    """The search with the fewest candidates that finds enough of ``exact`` (B, k), the best for ``vectors``."""
    faiss: Any = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)
    began = time.perf_counter()
    rows = _even(catalogue.augmented())
    index = faiss.index_factory(rows.shape[1], f"PQ{rows.shape[1] // 2}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
    drawn = np.random.default_rng(0).permutation(len(rows))[:_TRAINED_ITEMS]
    index.train(rows[drawn])
    index.add(rows)
    build_s = time.perf_counter() - began

    def search(asked: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        return index.search(_even(extended(asked)), k)

    index.k_factor = 1
    most = min(_CANDIDATES_MAX, len(rows)) / k
    while index.k_factor < most and recall_of(search(vectors)[1], exact) < _RECALL_MIN:
        index.k_factor = min(2 * index.k_factor, most)
    return Approximate(search, int(index.k_factor * k), build_s)


def _even(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """With a column of zeros where the width is odd."""
    return np.pad(matrix, ((0, 0), (0, matrix.shape[1] % 2)))

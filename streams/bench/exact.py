"""Ways to find the k greatest of ``vectors @ embeddings.T + bias``, all exact and on one thread."""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.graphs import rank_graph
from models.ranker import Ranker
from models.sessions import open_session

__all__ = ["Catalogue", "Search", "extended", "multiplication", "searches"]

_LISTS: Final = 64
"""Lists scored at a time: the scores of a small catalogue then stay near the cache."""
_GROUP_MEMBERS: Final = 32
_BLOCK_ITEMS: Final = 8_192
_SCORES_MAX: Final = 32 * 1024 * 1024

Found = tuple[NDArray[np.float32], NDArray[np.int64]]
Search = Callable[[NDArray[np.float32]], Found]


@dataclass(frozen=True)
class Catalogue:
    """Item matrix (N, D) and biases (N,), all finite."""

    embeddings: NDArray[np.float32]
    bias: NDArray[np.float32]

    def augmented(self) -> NDArray[np.float32]:
        """(N, D + 1): an inner product with a vector that ends in 1 is a score."""
        return np.concatenate([self.embeddings, self.bias[:, None]], axis=1)

    @cached_property
    def transposed(self) -> NDArray[np.float32]:
        """(D + 1, N) of ``augmented``, filled up to whole groups by items that never win."""
        items, width = self.embeddings.shape
        whole = np.zeros((width + 1, -(-items // _GROUP_MEMBERS) * _GROUP_MEMBERS), np.float32)
        whole[:-1, :items] = self.embeddings.T
        whole[-1] = -1e30
        whole[-1, :items] = self.bias
        return whole


def searches(catalogue: Catalogue, k: int) -> dict[str, Search | None]:
    """By name; None where a package is not installed. The first is the worker's."""
    has_onnx = importlib.util.find_spec("onnx") is not None
    return {
        "onnx (worker)": _onnx(catalogue, k) if has_onnx else None,
        "numpy, argpartition": _in_parts(_argpartition(catalogue, k), len(catalogue.bias)),
        "numpy, blocks of items": _in_parts(_blocks(catalogue, k), len(catalogue.bias)),
        "numpy, group maxima": _in_parts(_group_maxima(catalogue, k), len(catalogue.bias)),
        "faiss, flat": _faiss_flat(catalogue, k) if importlib.util.find_spec("faiss") is not None else None,
    }


def _onnx(catalogue: Catalogue, k: int) -> Search:
    ort: Any = importlib.import_module("onnxruntime")
    graph = rank_graph(catalogue.embeddings.shape[1])
    session = open_session(ort, graph, ["CPUExecutionProvider"], 1)
    ranker = Ranker(ort, session, catalogue.embeddings, catalogue.bias, "cpu")
    return lambda vectors: ranker.top_k(vectors, k)


def multiplication(catalogue: Catalogue, vectors: NDArray[np.float32]) -> Callable[[], None]:
    """The product that every exact search needs, as many lists at a time as those take, always into the same memory."""
    matrix, rows = catalogue.transposed[:-1], _rows(len(catalogue.bias))
    scores = np.empty((min(rows, len(vectors)), matrix.shape[1]), np.float32)

    def multiply() -> None:
        for at in range(0, len(vectors), rows):
            part = vectors[at : at + rows]
            np.matmul(part, matrix, out=scores[: len(part)])

    return multiply


def _rows(items: int) -> int:
    return max(min(_LISTS, _SCORES_MAX // items), 1)


def _in_parts(search: Search, items: int) -> Search:
    rows = _rows(items)

    def in_parts(vectors: NDArray[np.float32]) -> Found:
        parts = [search(vectors[at : at + rows]) for at in range(0, len(vectors), rows)]
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([found for _, found in parts])

    return in_parts


def _argpartition(catalogue: Catalogue, k: int) -> Search:
    transposed = catalogue.transposed
    return lambda vectors: _best(extended(vectors) @ transposed, k)


def _blocks(catalogue: Catalogue, k: int) -> Search:
    """The k best of each block of items, then of all blocks: scores never leave the cache."""
    transposed = catalogue.transposed
    starts = range(0, transposed.shape[1], _BLOCK_ITEMS)

    def search(vectors: NDArray[np.float32]) -> Found:
        asked = extended(vectors)
        scores: list[NDArray[np.float32]] = []
        rows: list[NDArray[np.int64]] = []
        for start in starts:
            found, places = _best(asked @ transposed[:, start : start + _BLOCK_ITEMS], k)
            scores.append(found)
            rows.append(places + start)
        best, places = _best(np.concatenate(scores, axis=1), k)
        return best, np.take_along_axis(np.concatenate(rows, axis=1), places, 1)

    return search


def _group_maxima(catalogue: Catalogue, k: int) -> Search:
    """The k best lie in the k groups of the greatest maxima: only maxima and members of k groups are searched."""
    members = _GROUP_MEMBERS if len(catalogue.bias) >= k * _GROUP_MEMBERS else 1
    transposed = catalogue.transposed
    groups = transposed.shape[1] // members
    offsets = (np.arange(members) * groups)[None, None, :]

    def search(vectors: NDArray[np.float32]) -> Found:
        every = extended(vectors) @ transposed
        maxima = every.reshape(len(vectors), members, groups).max(axis=1)
        chosen = np.argpartition(maxima, groups - k, axis=1)[:, groups - k :]
        rows = (chosen[:, :, None] + offsets).reshape(len(vectors), -1)
        scores, places = _best(np.take_along_axis(every, rows, 1), k)
        return scores, np.take_along_axis(rows, places, 1)

    return search


def _best(scores: NDArray[np.float32], k: int) -> Found:
    """The k greatest of each row, descending, and their places."""
    width = scores.shape[1]
    k = min(k, width)
    chosen = np.argpartition(scores, width - k, axis=1)[:, width - k :]
    found = np.take_along_axis(scores, chosen, 1)
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(found, order, 1), np.take_along_axis(chosen, order, 1)


def _faiss_flat(catalogue: Catalogue, k: int) -> Search:
    faiss: Any = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(catalogue.embeddings.shape[1] + 1)
    index.add(catalogue.augmented())
    return lambda vectors: index.search(extended(vectors), k)


def extended(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, D) -> (B, D + 1), whose inner products with ``Catalogue.augmented`` are scores."""
    return np.concatenate([vectors, np.ones((len(vectors), 1), np.float32)], axis=1)

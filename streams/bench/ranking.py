"""``headwater bench ranking``: ways to find the exact ten best items of a catalogue, by its size.

Every way gets the same interest vectors and must give the ten best scores of a float64 pass over all items. The
real item matrix is used up to its size; beyond it rows are drawn around real ones, and the output says so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from models.metrics import recall_of
from models.runtime import OnnxEncoder
from operators.interest import step
from streams.bench.approximate import Approximate, build
from streams.bench.exact import Catalogue, Search, multiplication, searches
from streams.bench.lab import BenchError
from streams.bench.summary import machine, versions
from streams.bench.timing import interleaved_us, medians_us

__all__ = ["RankingOptions", "catalogue_of", "run", "show"]

_LIST_ITEMS: Final = 10
_APPROXIMATE: Final = "faiss, codes"
"""The one way that may miss an item."""
_NOISE: Final = 0.5
"""Of a synthetic row, in standard deviations of the real matrix around a real row."""
_TOLERANCE: Final = 1e-4
_CALL_S: Final = 0.15
_LISTS_LARGE: Final = 64
"""Beyond ``_LARGE_ITEMS`` fewer lists a call keep the score matrix within memory."""
_LARGE_ITEMS: Final = 200_000
_BLOCK_ITEMS: Final = 65_536

Echo = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class RankingOptions:
    """What to measure."""

    items: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    lists: int = 256
    rounds: int = 3


class _Sized(NamedTuple):
    catalogue: Catalogue
    vectors: NDArray[np.float32]
    synthetic: bool


def run(options: RankingOptions, echo: Echo) -> dict[str, Any]:
    """Measure; the result is what ``--json`` prints. The real catalogue is always among the sizes.

    Raises:
        BenchError: an option that cannot be measured with, or a way that is not exact.
        ModelError: the model is missing.
    """
    if options.rounds < 1 or options.lists < 1 or min(options.items, default=1) < _LIST_ITEMS:
        raise BenchError(f"--rounds and --lists must be 1 or more and every --items {_LIST_ITEMS} or more")
    encoder = OnnxEncoder(providers="cpu")
    real = encoder.manifest.items - 1
    sizes = sorted({*options.items, real})
    return {
        "sizes": [_size(encoder, items, real, options, echo) for items in sizes],
        "real_items": real,
        "clock": "processor time",
        "width": encoder.vector_width,
        "rounds": options.rounds,
        "machine": machine(),
        "versions": versions("none"),
    }


def _size(encoder: OnnxEncoder, items: int, real: int, options: RankingOptions, echo: Echo) -> dict[str, Any]:
    catalogue, vectors, synthetic = catalogue_of(encoder, items, options.lists)
    found = searches(catalogue, _LIST_ITEMS)
    missing = sorted(name for name, search in found.items() if search is None)
    present: dict[str, Search] = {name: search for name, search in found.items() if search is not None}
    best_of_all = best_scores(catalogue, vectors, _LIST_ITEMS)
    for name, search in present.items():
        check_exact(name, catalogue, vectors, best_of_all, search(vectors))
    exact_rows = next(iter(present.values()))(vectors)[1]
    approximate = _approximate(catalogue, vectors, exact_rows) if "faiss, flat" in present else None
    if approximate is not None:
        present[_APPROXIMATE] = approximate.search
    contenders: dict[str, tuple[Callable[[], object], int]] = {
        name: (lambda search=search: search(vectors), len(vectors)) for name, search in present.items()
    }
    contenders["product alone"] = (multiplication(catalogue, vectors), len(vectors))
    times = interleaved_us(contenders, options.rounds, _CALL_S)
    best = min(found, key=lambda name: min(times.get(name, [np.inf])))
    echo(f"{items:,} items: {best} {min(times[best]):.1f} us a list, product alone {min(times['product alone']):.1f}")
    return {
        "items": items,
        "synthetic": synthetic,
        "lists_per_call": len(vectors),
        "ways": [{"way": name, **medians_us("us_per_list", of_way)} for name, of_way in times.items()],
        "approximate": None if approximate is None else _measured(approximate, vectors, exact_rows),
        "absent": missing,
    }


def _approximate(catalogue: Catalogue, vectors: NDArray[np.float32], exact_rows: NDArray[np.int64]) -> Approximate:
    """Tuned on every other list; the rest says what it finds."""
    return build(catalogue, _LIST_ITEMS, vectors[::2], exact_rows[::2])


def _measured(
    approximate: Approximate, vectors: NDArray[np.float32], exact_rows: NDArray[np.int64]
) -> dict[str, float]:
    found = approximate.search(vectors[1::2])[1]
    return {
        "recall10": round(recall_of(found, exact_rows[1::2]), 4),
        "candidates": approximate.candidates,
        "build_s": round(approximate.build_s, 1),
    }


def catalogue_of(encoder: OnnxEncoder, items: int, lists: int) -> _Sized:
    """Embeddings and biases of so many items, and interest vectors of users with a short random history each."""
    real = encoder.manifest.items - 1
    random = np.random.default_rng(items)
    embeddings, bias = encoder.embeddings(np.arange(1, real + 1)), encoder.item_bias[1:]
    if items > real:
        drawn = random.integers(0, real, items - real)
        noise = random.standard_normal((items - real, encoder.vector_width), np.float32) * embeddings.std() * _NOISE
        embeddings = np.concatenate([embeddings, embeddings[drawn] + noise.astype(np.float32)])
        bias = np.concatenate([bias, bias[drawn]])
    else:
        embeddings, bias = embeddings[:items], bias[:items]
    count = min(lists, _LISTS_LARGE) if items > _LARGE_ITEMS else lists
    hidden = np.zeros((count, encoder.hidden_width), np.float32)
    vectors = np.zeros((count, encoder.vector_width), np.float32)
    for _ in range(8):
        rows, gaps = random.integers(1, real + 1, count), random.integers(1, 24, count)
        hidden, vectors = step(encoder, hidden, rows, np.full(count, 2), gaps)
    return _Sized(Catalogue(np.ascontiguousarray(embeddings), np.ascontiguousarray(bias)), vectors, items > real)


def best_scores(catalogue: Catalogue, vectors: NDArray[np.float32], k: int) -> NDArray[np.float64]:
    """The k greatest scores of each vector (B, k), descending, by a float64 pass over all items."""
    asked = vectors.astype(np.float64).T
    best = np.full((0, len(vectors)), -np.inf)
    for start in range(0, len(catalogue.bias), _BLOCK_ITEMS):
        block = slice(start, start + _BLOCK_ITEMS)
        every = catalogue.embeddings[block].astype(np.float64) @ asked + catalogue.bias[block, None]
        every = np.concatenate([best, every])
        best = np.partition(every, len(every) - k, axis=0)[-k:] if len(every) > k else every
    return np.sort(best, axis=0)[::-1].T


def check_exact(
    name: str,
    catalogue: Catalogue,
    vectors: NDArray[np.float32],
    best: NDArray[np.float64],
    found: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    """Scores and rows against ``best_scores``; items of equal score may replace each other.

    Raises:
        BenchError: they differ.
    """
    scores, rows = found
    chosen = np.einsum("bd,bkd->bk", vectors.astype(np.float64), catalogue.embeddings[rows]) + catalogue.bias[rows]
    tolerance = _TOLERANCE * np.maximum(1.0, np.abs(best).max(axis=1))
    right = (np.abs(best - scores).max(axis=1) < tolerance) & (np.abs(chosen - best).max(axis=1) < tolerance)
    if not right.all() or any(len(set(of_list)) != len(of_list) for of_list in rows.tolist()):
        raise BenchError(f"{name} does not give the {best.shape[1]} best of {len(catalogue.bias)} items")


def show(result: Mapping[str, Any]) -> None:
    """The figures as a table on standard output."""
    names = [way["way"] for way in result["sizes"][0]["ways"]]
    table = Table("us a list, top 10", *names, box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for size in result["sizes"]:
        cells = [f"{way['us_per_list']:.1f}" for way in size["ways"]]
        table.add_row(f"{size['items']:,} items{' (synthetic)' if size['synthetic'] else ''}", *cells)
    console, about = Console(highlight=False, soft_wrap=True, width=140), result["machine"]
    console.print(table)
    for size in result["sizes"]:
        if (part := size["approximate"]) is not None:
            console.print(
                f"{size['items']:,} items: {_APPROXIMATE}: {part['candidates']:,} candidates a list,"
                f" recall {part['recall10']:.4f}, built in {part['build_s']:.1f} s"
            )
    absent = sorted({name for size in result["sizes"] for name in size["absent"]})
    if absent:
        console.print(f"absent: {', '.join(absent)}; pip install 'headwater[bench]'")
    console.print(f"medians of {result['rounds']} rounds, {about['cores']} cores of {about['cpu']}, one thread")

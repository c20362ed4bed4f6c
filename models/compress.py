"""A model in fewer bits, offered only while its lists are those of the model in float32."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.dataset import COMPLETE_JOURNEY, NextBaskets, complete_journey, next_baskets, sequences, split_bounds
from models.device_graphs import half_products, shortlist_graph
from models.errors import ModelError
from models.evaluate import vectors_before
from models.graphs import compressed
from models.half_check import lists_in_half
from models.manifest import (
    BIAS_FILE,
    DEVICE_STEP_FILE,
    EMBEDDINGS_FILE,
    SHORTLIST_FILE,
    Manifest,
    hash_files,
    load_artefact,
    stage_files,
    version_of,
    write_manifest,
)
from models.metrics import rank_scores, recall_of
from models.precision import PRECISIONS, Precision, pack_rows
from models.runtime import OnnxEncoder
from operators.drawn import drawn_rows
from operators.interest import EVENT_TYPES, Job, pack_jobs, refresh, step

__all__ = ["OVERLAP_MIN", "Compressed", "compress", "compression_table", "overlap", "overlap_in_half"]

OVERLAP_MIN: Final = 0.99
"""Mean share of a list of ten that a compressed model must leave as it was."""
LIST_ITEMS: Final = 10
_HISTORIES: Final = 512
_EVENTS: Final = 40
_BASKETS: Final = 2_000
_ROUNDS: Final = 50
_BATCH: Final = 256
_PURCHASE: Final = EVENT_TYPES.index("purchase")

Coarse = Callable[[str], bool]


def _feed_forward(name: str) -> bool:
    """The matrices that int8 does no harm: an error in those of the recurrence adds up over the events."""
    return ".w1." in name or ".w2." in name


def _every_weight(name: str) -> bool:
    return name.endswith(".weight")


def _none(_name: str) -> bool:
    return False


class Compressed(msgspec.Struct, frozen=True):
    """One line of the table."""

    variant: str
    bytes: int
    """Of the item matrix, its biases and the encoder; the vocabulary is the same in all."""
    overlap10: float
    offered: bool
    ndcg10: float | None
    """On the next baskets of Complete Journey's validation period, the encoder alone; None for another model."""
    load_ms: float
    step_us: float
    top_k_us: float
    """Of an event and of a list, 256 at a time, the best of 50 calls."""


class _Asked(NamedTuple):
    """What the variants are compared by."""

    vectors: Callable[[OnnxEncoder], NDArray[np.float32]]
    targets: Sequence[NDArray[np.int64]] | None


def compress(source: Path, out: Path, precision: Precision) -> Manifest:
    """Write the artefact ``source`` (fp32) to the empty directory ``out`` in ``precision``.

    fp16: the item matrix and every matrix of the encoder. int8: the item matrix with a scale an item and the
    feed-forward matrices with a scale a column; the recurrence stays in fp16. Biases, norms and eigenvalues stay.
    On a CPU all matrices are spread to float32. On a GPU the products of an fp16 model are done in fp16, and lists are
    ranked anew in float32; those of an int8 model are done in float32 there, too.

    Raises:
        ModelError: ``source`` is compressed already, or the lists would differ by more than ``OVERLAP_MIN`` allows.
    """
    reference = OnnxEncoder(source, providers="cpu")
    manifest = _written(source, reference, out, precision, _feed_forward if precision == "int8" else _none)
    compressed_model = OnnxEncoder(out, providers="cpu")
    kept = overlap(reference, compressed_model)
    if precision == "fp16":
        kept = min(kept, overlap_in_half(reference, out, compressed_model))
    if kept < OVERLAP_MIN:
        raise ModelError(
            f"{precision} keeps {kept:.4f} of the lists of {manifest.name}, less than {OVERLAP_MIN};"
            " export it with another --precision, or as it is"
        )
    return manifest


def overlap(reference: OnnxEncoder, other: OnnxEncoder) -> float:
    """Mean share of the reference's ten best items that are among the other's, over histories drawn by the model."""
    asked = _drawn(reference)
    return recall_of(_lists(other, asked), _lists(reference, asked))


def overlap_in_half(reference: OnnxEncoder, directory: Path, other: OnnxEncoder) -> float:
    """``overlap`` with what a GPU makes of the model in fp16 in ``directory``, which is ``other`` on a CPU."""
    packed = pack_jobs(_histories(reference), reference.hidden_width)
    matrix = other.embeddings(np.arange(other.manifest.items))
    found = lists_in_half(directory, matrix, other.item_bias, packed, LIST_ITEMS)
    return recall_of(found, _lists(reference, _drawn(reference)))


def compression_table(source: Path, advance: Callable[[str, float], None] = lambda _w, _s: None) -> list[Compressed]:
    """Size, quality and speed of every precision, and of int8 for the recurrence too, which is not offered.

    Raises:
        ModelError: ``source`` cannot be used or is compressed.
    """
    variants: list[tuple[str, Precision, Coarse]] = [
        *((name, name, _feed_forward if name == "int8" else _none) for name in PRECISIONS),
        ("int8, recurrence too", "int8", _every_weight),
    ]
    reference = OnnxEncoder(source, providers="cpu")
    asked = _baskets(reference) if reference.manifest.dataset.startswith(COMPLETE_JOURNEY) else _drawn(reference)
    expected = _lists(reference, asked)
    rows: list[Compressed] = []
    with tempfile.TemporaryDirectory() as scratch:
        for n, (variant, precision, coarse) in enumerate(variants):
            advance(variant, n / len(variants))
            directory = Path(scratch) / str(n)
            directory.mkdir()
            _written(source, reference, directory, precision, coarse)
            started = time.perf_counter()
            encoder = OnnxEncoder(directory, providers="cpu")
            load_ms = 1000 * (time.perf_counter() - started)
            lists = _lists(encoder, asked)
            kept = recall_of(lists, expected)
            rows.append(
                Compressed(
                    variant,
                    bytes=_bytes(directory, encoder.manifest),
                    overlap10=round(kept, 4),
                    offered=kept >= OVERLAP_MIN,
                    ndcg10=None if asked.targets is None else round(rank_scores(lists, list(asked.targets)).ndcg, 4),
                    load_ms=round(load_ms, 1),
                    **_speeds(encoder),
                )
            )
    return rows


def _written(source: Path, reference: OnnxEncoder, out: Path, precision: Precision, coarse: Coarse) -> Manifest:
    manifest, contents = load_artefact(source)
    if manifest.precision != "fp32":
        raise ModelError(f"{source} is in {manifest.precision} already; compress the model it was made from")
    for name, content in contents.items():
        (out / name).write_bytes(content)
    if precision != "fp32":
        for name in stage_files(manifest.blocks):
            (out / name).write_bytes(compressed(contents[name], coarse))
        step = compressed(contents[DEVICE_STEP_FILE], coarse)
        (out / DEVICE_STEP_FILE).write_bytes(half_products(step) if precision == "fp16" else step)
        if precision == "fp16":
            (out / SHORTLIST_FILE).write_bytes(shortlist_graph(manifest.vector_width))
        matrix = reference.embeddings(np.arange(manifest.items))
        np.save(out / EMBEDDINGS_FILE, pack_rows(matrix, precision), allow_pickle=False)
    names = (*manifest.files, SHORTLIST_FILE) if precision == "fp16" else tuple(manifest.files)
    files = hash_files(out, names)
    version = version_of(manifest.name, files)
    figures = manifest.evaluations if precision == "fp32" else []  # those of another model say nothing of this one
    manifest = msgspec.structs.replace(manifest, version=version, files=files, precision=precision, evaluations=figures)
    write_manifest(out, manifest)
    return manifest


def _bytes(directory: Path, manifest: Manifest) -> int:
    names = (*stage_files(manifest.blocks), EMBEDDINGS_FILE, BIAS_FILE)
    return sum((directory / name).stat().st_size for name in names)


def _histories(reference: OnnxEncoder) -> list[Job]:
    rows = drawn_rows(reference, reference.manifest.items, _HISTORIES, _EVENTS)
    types, gaps = np.full(_EVENTS, _PURCHASE), np.minimum(np.arange(_EVENTS), 1)
    return [Job(None, line, types, gaps) for line in rows]


def _drawn(reference: OnnxEncoder) -> _Asked:
    jobs = _histories(reference)

    def vectors(encoder: OnnxEncoder) -> NDArray[np.float32]:
        return refresh(encoder, jobs)[1]

    return _Asked(vectors, None)


def _baskets(reference: OnnxEncoder) -> _Asked:
    purchases = complete_journey()
    events = sequences(purchases, [reference.item_at(row) for row in range(reference.manifest.items)])
    every = next_baskets(events, *split_bounds(purchases.timestamp_ms))
    chosen = np.sort(np.random.default_rng(0).permutation(len(every.before))[:_BASKETS])
    tasks = NextBaskets(every.before[chosen], [every.targets[n] for n in chosen.tolist()])

    def vectors(encoder: OnnxEncoder) -> NDArray[np.float32]:
        return vectors_before(encoder, events, tasks)

    return _Asked(vectors, tasks.targets)


def _lists(encoder: OnnxEncoder, asked: _Asked) -> NDArray[np.int64]:
    return encoder.top_k(asked.vectors(encoder), LIST_ITEMS)[1]


def _speeds(encoder: OnnxEncoder) -> dict[str, float]:
    """``step_us`` and ``top_k_us``."""
    hidden = np.zeros((_BATCH, encoder.hidden_width), np.float32)
    rows = np.arange(_BATCH) % (encoder.manifest.items - 1) + 1
    types, gaps = np.full(_BATCH, _PURCHASE), np.ones(_BATCH, np.int64)
    _, vectors = step(encoder, hidden, rows, types, gaps)
    works: dict[str, Callable[[], object]] = {
        "step_us": lambda: step(encoder, hidden, rows, types, gaps),
        "top_k_us": lambda: encoder.top_k(vectors, LIST_ITEMS),
    }
    return {name: round(1e6 * _best_s(work) / _BATCH, 2) for name, work in works.items()}


def _best_s(work: Callable[[], object]) -> float:
    times: list[float] = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)

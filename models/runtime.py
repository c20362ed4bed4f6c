"""Execution of a model artefact by ONNX Runtime: CUDA when there is one, else the CPU."""

import contextlib
import ctypes
import importlib
import io
import logging
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.advance import Advance
from models.device import DeviceAdvance
from models.errors import ModelError
from models.manifest import (
    BIAS_FILE,
    DECAY_FILE,
    DEVICE_PUT_FILE,
    DEVICE_STEP_FILE,
    EMBEDDINGS_FILE,
    FUSION_FILE,
    RANK_FILE,
    SHORTLIST_FILE,
    VOCABULARY_FILE,
    Manifest,
    load_artefact,
    stage_files,
)
from models.precision import unpack_rows
from models.ranker import Ranker
from models.sessions import device_of, on_device, open_session
from operators.explaining import mean_response
from operators.fusion import Fusion
from operators.interest import EVENT_TYPES, OUT_OF_VOCABULARY, PackedJobs
from operators.kernels import dots, pair_dots, rows_in
from operators.wire import UNDECODABLE

__all__ = ["DEFAULT_ARTEFACT", "OnnxEncoder", "Providers"]

DEFAULT_ARTEFACT: Final = Path(__file__).parent / "artefact"
"""The model that is part of the package: Complete Journey, 13,343 products."""

log = logging.getLogger(__name__)

_CPU: Final = ["CPUExecutionProvider"]
_LENGTH_MIN: Final = np.float32(1e-12)

Providers = Literal["auto", "cpu", "cuda"]


class _Sessions(NamedTuple):
    """What a call needs of one device, in one piece: a second thread may be in a call when they are made anew."""

    advance: Advance | DeviceAdvance
    ranker: Ranker
    provider: str


class OnnxEncoder:
    """An ``operators.interest.Encoder`` over an artefact directory.

    Args:
        as_device: run what a GPU runs, on a CPU too: to check it without a GPU.

    Raises:
        ModelError: the artefact is missing, altered or inconsistent, or CUDA was asked for and cannot be had.
    """

    def __init__(
        self,
        artefact: Path = DEFAULT_ARTEFACT,
        *,
        providers: Providers = "auto",
        threads: int = 1,
        as_device: bool = False,
    ) -> None:
        manifest, contents = load_artefact(artefact)
        self.manifest: Final[Manifest] = manifest
        self.fusion: Final = _fusion(artefact, contents.get(FUSION_FILE))
        """Weights of the parts of a list; None where the model has none of its own."""
        items = _vocabulary(artefact, contents[VOCABULARY_FILE], manifest)
        self._items = np.array(items, object)  # numpy gathers the ids of a whole batch in one loop of its own
        self._row_of = {item_id: row for row, item_id in enumerate(items) if row != OUT_OF_VOCABULARY}
        shape = (self.manifest.items, self.manifest.vector_width)
        self._embeddings = _array(artefact / EMBEDDINGS_FILE, contents[EMBEDDINGS_FILE], shape)
        self._trained_bias = _array(artefact / BIAS_FILE, contents[BIAS_FILE], shape[:1])
        channels = self.manifest.hidden_width // (2 * self.manifest.blocks)
        self._decay = _array(artefact / DECAY_FILE, contents[DECAY_FILE], (self.manifest.blocks, 2, channels))
        self._bias = self._trained_bias.copy()
        self._bias[OUT_OF_VOCABULARY] = -np.inf
        self._bias_edition = 0
        self._ort: Any = importlib.import_module("onnxruntime")
        self._artefact, self._threads, self._as_device = artefact, threads, as_device
        self._asked = providers
        self._lock = threading.RLock()
        """Of the device: its calls take turns."""
        self._contents = {name: content for name, content in contents.items() if name.endswith(".onnx")}
        self._wanted = _wanted_providers(self._ort, providers)
        self._lengths = np.maximum(np.linalg.norm(self._embeddings, axis=1), _LENGTH_MIN)
        self.reopen()
        if providers == "cuda" and self.provider != "CUDAExecutionProvider":
            raise ModelError("CUDA was asked for but ONNX Runtime could not start it; see `headwater doctor`")

    def reopen(self) -> None:
        """Make the sessions anew, and put on their device what they hold; after a failure that may pass.

        Raises:
            ModelError: ONNX Runtime refuses a graph, or the device that was asked for.
        """
        with self._lock:
            self._sessions = self._on_device_if_there() or self._on_cpu()

    def _on_device_if_there(self) -> _Sessions | None:
        """None where there is none to be had, and none was asked for."""
        if not self._as_device and self._wanted == _CPU:
            return None
        try:
            return self._on_device()
        except Exception as error:  # ONNX Runtime's own kinds, for want of memory among others
            if self._as_device or self._asked == "cuda":
                raise ModelError(f"{error}; see `headwater doctor`") from error
            log.warning("CUDA cannot be used, lists are made on the CPU: %s", error)
            return None

    def _on_device(self) -> _Sessions | None:
        step = self._open(DEVICE_STEP_FILE, self._wanted, captures=True)
        device = device_of(step)
        if device == "cpu" and not self._as_device:
            return None
        widths = {"item_embeddings": self.manifest.vector_width, "hidden": self.manifest.hidden_width}
        _check_shapes(step, widths, self._artefact / DEVICE_STEP_FILE)
        is_half = self.manifest.precision == "fp16"
        put = self._open(DEVICE_PUT_FILE, self._wanted)
        rank = self._open(SHORTLIST_FILE if is_half else RANK_FILE, self._wanted)
        if {device_of(put), device_of(rank)} != {device}:
            raise ModelError("CUDA takes a part of the model only")
        embeddings = on_device(self._ort, self._embeddings, device)
        ranked = on_device(self._ort, self._embeddings.astype(np.float16), device) if is_half else embeddings
        edition = self._bias_edition  # before the copy: what changes meanwhile is of a later edition
        advance = DeviceAdvance(self._ort, step, put, embeddings, device, self._lock)
        ranker = Ranker(self._ort, rank, ranked, self._bias, device, edition, self._lock)
        return _Sessions(advance, ranker, step.get_providers()[0])

    def _on_cpu(self) -> _Sessions:
        files = stage_files(self.manifest.blocks)
        stages = [self._open(name, _CPU) for name in files]
        of_block = self.manifest.hidden_width / self.manifest.blocks
        widths = {"item_embeddings": self.manifest.vector_width, "u": of_block}
        _check_shapes(stages[0], widths, self._artefact / files[0])
        edition = self._bias_edition
        ranker = Ranker(self._ort, self._open(RANK_FILE, _CPU), self._embeddings, self._bias, bias_edition=edition)
        return _Sessions(Advance(stages, self._decay, self._embeddings), ranker, stages[0].get_providers()[0])

    def _open(self, name: str, providers: list[str], *, captures: bool = False) -> Any:
        model, path = self._contents[name], self._artefact / name
        return open_session(self._ort, model, providers, self._threads, path, captures=captures)

    def fall_back(self) -> bool:
        """Reopen on the CPU; False where the sessions are there already."""
        if self._sessions.provider == "CPUExecutionProvider":
            return False
        self._wanted = _CPU
        self.reopen()
        return True

    @property
    def provider(self) -> str:
        """The execution provider that the sessions really got."""
        return self._sessions.provider

    @property
    def version(self) -> str:
        return self.manifest.version

    @property
    def hidden_width(self) -> int:
        return self.manifest.hidden_width

    @property
    def vector_width(self) -> int:
        return self.manifest.vector_width

    @property
    def item_bias(self) -> NDArray[np.float32]:
        """Bias of every row (N,) as ``top_k`` uses it: -inf for rows that cannot be recommended."""
        return self._bias.copy()

    def row_of(self, item_id: str) -> int:
        return self._row_of.get(item_id, OUT_OF_VOCABULARY)

    def rows_of(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        rows = np.empty(len(item_ids), np.int64)
        rows_in(self._row_of, list(item_ids), rows)
        return rows

    def item_at(self, row: int) -> str:
        return self._items[row]

    def advance(self, packed: PackedJobs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._sessions.advance(packed)

    def top_k(self, vectors: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        ranker = self._sessions.ranker
        if ranker.bias_edition != self._bias_edition:
            ranker.set_bias(self._bias, self._bias_edition)
        return ranker.top_k(vectors, k)

    def scores_of(self, vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        scores = np.empty(rows.shape, np.float32)
        dots(np.ascontiguousarray(vectors), self._embeddings, np.ascontiguousarray(rows), scores)
        return scores + self._bias[rows]

    def items_at(self, rows: Iterable[int]) -> list[str]:
        return self._items[rows if isinstance(rows, np.ndarray) else np.fromiter(rows, np.int64)].tolist()

    def directions(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._embeddings[rows] / self._lengths[rows][..., None]

    def influences(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._influences[rows]

    def effects(self, listed: NDArray[np.int64], events: NDArray[np.int64]) -> NDArray[np.float32]:
        products = np.empty((*listed.shape, events.shape[1]), np.float32)
        known = np.ascontiguousarray(np.maximum(listed, OUT_OF_VOCABULARY))
        pair_dots(self._embeddings, known, self._influences, np.ascontiguousarray(events), products)
        return products

    @cached_property
    def _influences(self) -> NDArray[np.float32]:
        every = np.arange(self.manifest.items)
        return self.directions(every) @ mean_response(self, len(every), EVENT_TYPES.index("purchase"))

    def embeddings(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._embeddings[rows]

    def biases(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._bias[rows]

    def set_rule(self, item_id: str, available: bool, boost: float) -> None:
        row = self.row_of(item_id)
        if row != OUT_OF_VOCABULARY:
            self._bias[row] = self._trained_bias[row] + np.float32(boost) if available else -np.inf
            self._bias_edition += 1


def _wanted_providers(ort: Any, providers: Providers) -> list[str]:
    if providers == "cpu":
        return _CPU
    if "CUDAExecutionProvider" in ort.get_available_providers() and _has_driver():
        with contextlib.redirect_stdout(io.StringIO()):  # it prints, and stdout may be a command's JSON
            ort.preload_dlls()
        return ["CUDAExecutionProvider", *_CPU]
    if providers == "cuda":
        raise ModelError("CUDA was asked for but there is no NVIDIA driver or no onnxruntime-gpu; use providers=cpu")
    return _CPU


def _has_driver() -> bool:
    """Without one the provider would fail with a page of warnings."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _vocabulary(artefact: Path, content: bytes, manifest: Manifest) -> list[str]:
    path = artefact / VOCABULARY_FILE
    try:
        items = msgspec.json.decode(content, type=list[str])
    except UNDECODABLE as error:
        raise ModelError(f"{path} is not a list of item ids ({error}); export the model again") from error
    if len(items) != manifest.items or len(set(items)) != len(items):
        raise ModelError(f"{path} must hold {manifest.items} distinct ids, has {len(set(items))}; export it again")
    return items


def _fusion(artefact: Path, content: bytes | None) -> Fusion | None:
    try:
        return None if content is None else msgspec.json.decode(content, type=Fusion)
    except UNDECODABLE as error:
        raise ModelError(f"{artefact / FUSION_FILE} holds no weights ({error}); choose them again") from error


def _array(path: Path, content: bytes, shape: tuple[int, ...]) -> NDArray[np.float32]:
    try:
        array = unpack_rows(np.load(io.BytesIO(content), allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise ModelError(f"{path} is not a numpy array ({error}); export the model again") from error
    if array.shape != shape or array.dtype != np.float32:
        raise ModelError(f"{path} is {array.dtype} {array.shape}, the manifest says float32 {shape}; export it again")
    if not np.isfinite(array).all():
        raise ModelError(f"{path} holds values that are not finite; train and export the model again")
    return array


def _check_shapes(session: Any, expected: Mapping[str, float], path: Path) -> None:
    shapes = {tensor.name: tensor.shape for tensor in (*session.get_inputs(), *session.get_outputs())}
    for name, width in expected.items():
        actual = shapes.get(name, [None])[-1]
        if actual != width:
            raise ModelError(f"{path}: {name} is {actual} wide, the manifest says {width:g}; export the model again")

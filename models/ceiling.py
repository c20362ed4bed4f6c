"""The arithmetic limit of a model: its multiplications, and how many of them the device does in a second."""

import importlib
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from models.graphs import matmul_graph
from models.manifest import load_artefact, stage_files
from models.runtime import OnnxEncoder
from models.sessions import device_of, on_device, open_session

__all__ = ["flops_per_event", "flops_per_list", "matmul_flops_per_s", "product_type"]

_SIZE: Final = {"cpu": 768, "cuda": 8192}
"""Of the square matrices: large enough for full speed, and on a CPU within its second-level cache a panel at a time."""
_SECONDS: Final = 0.3


def flops_per_event(artefact: Path) -> int:
    """Multiplications and additions in the matrix products of one event; what is elementwise is left out.

    Of several events of one user in a call, all but the last cost less: the last block is read out once.

    Raises:
        ModelError: the artefact is missing, altered or inconsistent.
        ModuleNotFoundError: onnx is not installed.
    """
    onnx: Any = importlib.import_module("onnx")
    manifest, contents = load_artefact(artefact)
    flops = 0
    for file in stage_files(manifest.blocks):
        graph = onnx.load_from_string(contents[file]).graph
        # What `models.compress` has made of a matrix has a name of its own.
        shapes = {re.sub(r"\.(half|codes)$", "", each.name): tuple(each.dims) for each in graph.initializer}
        weights = [shapes[node.input[1]] for node in graph.node if node.op_type in ("Gemm", "MatMul")]
        flops += sum(2 * rows * columns for rows, columns in weights)
    return flops


def flops_per_list(encoder: OnnxEncoder) -> int:
    """Multiplications and additions of scoring every item; the search for the best is left out."""
    return 2 * encoder.manifest.items * encoder.vector_width


def product_type(encoder: OnnxEncoder) -> type[np.floating[Any]]:
    """Of the factors of the encoder's products where it is."""
    is_half = encoder.manifest.precision == "fp16" and encoder.provider != "CPUExecutionProvider"
    return np.float16 if is_half else np.float32


def matmul_flops_per_s(
    encoder: OnnxEncoder, clock: Callable[[], float] = time.perf_counter, seconds: float = _SECONDS
) -> float:
    """Peak of a matrix product on the encoder's device, with its execution provider and one thread.

    In float32, but in fp16 where the device does those of a model in fp16 so.
    """
    ort: Any = importlib.import_module("onnxruntime")
    kind = product_type(encoder)
    session = open_session(ort, matmul_graph(kind), [encoder.provider], 1)
    device = device_of(session)
    size = _SIZE[device]
    draw = np.random.default_rng(0).standard_normal
    binding = session.io_binding()
    for name in ("a", "b"):
        binding.bind_ortvalue_input(name, on_device(ort, draw((size, size), np.float32).astype(kind), device))
    binding.bind_output("c", device)
    session.run_with_iobinding(binding)
    done, best, began = 0, 0.0, clock()
    while done < 2 or clock() - began < seconds:
        start = clock()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        best = max(best, 2.0 * size**3 / (clock() - start))
        done += 1
    return best

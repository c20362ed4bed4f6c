"""What a GPU makes of a model in fp16, by ONNX's reference: on a CPU ONNX Runtime does such products in float32."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.device_graphs import step_inputs
from models.manifest import DEVICE_STEP_FILE, SHORTLIST_FILE
from models.ranker import SHORTLIST_FACTOR
from models.slots import FRESH, SCRATCH
from operators.interest import PackedJobs

__all__ = ["lists_in_half"]


def lists_in_half(
    directory: Path, embeddings: NDArray[np.float32], bias: NDArray[np.float32], packed: PackedJobs, k: int
) -> NDArray[np.int64]:
    """Rows of the lists (B, k) of users without a state, whose events are as many as one call takes.

    Factors, products and scores are rounded to fp16, sums are in float32, as on tensor cores.

    Args:
        directory: of a model in fp16.
        embeddings: (N, D), bias: (N,), of its items.
    """
    lengths = np.diff(packed.ends, prepend=0)
    targets = SCRATCH + 1 + np.arange(len(lengths))
    columns = packed.rows, packed.types, packed.gaps
    events, users = step_inputs(columns, lengths, np.full_like(targets, FRESH), targets)
    inputs = {
        "hold": np.zeros((SCRATCH + 1 + len(targets), packed.hidden.shape[1]), np.float32),
        "item_embeddings": embeddings,
        "events": events,
        "users": users,
    }
    (vectors,) = _run(directory / DEVICE_STEP_FILE, ["vector"], inputs)
    inputs = {
        "vector": vectors,
        "item_embeddings": embeddings.astype(np.float16),
        "item_bias": bias,
        "shortlist": np.array([SHORTLIST_FACTOR * k]),
        "k": np.array([k]),
    }
    (rows,) = _run(directory / SHORTLIST_FILE, ["rows"], inputs)
    return rows


def _run(file: Path, outputs: list[str], inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    reference: Any = importlib.import_module("onnx.reference")
    operation: Any = importlib.import_module("onnx.reference.op_run")

    class Gemm(operation.OpRun):
        op_domain = ""

        def _run(self, a: Any, b: Any, c: Any, transB: int = 0, **_others: Any) -> tuple[Any]:  # noqa: N803  # ONNX's name
            wide = a.astype(np.float32) @ (b.T if transB else b).astype(np.float32) + c.astype(np.float32)
            return (wide.astype(a.dtype),)

    return reference.ReferenceEvaluator(str(file), new_ops=[Gemm]).run(outputs, inputs)

"""Item matrices in fewer bits: how ``item_embeddings.npy`` holds them, and back."""

from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["PRECISIONS", "Precision", "pack_rows", "quantized", "unpack_rows"]

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: Final[tuple[Precision, ...]] = ("fp32", "fp16", "int8")

_CODES_MAX: Final = 127
_SCALE_MIN: Final = 1e-12


def quantized(array: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes of the array's shape and scales with 1 along ``axis``: ``codes * scales`` is nearest to the array.

    Symmetric, from -127 to 127, one scale for all values along the axis.
    """
    greatest: NDArray[np.float32] = np.abs(array).max(axis=axis, keepdims=True)
    scales = np.maximum(greatest / _CODES_MAX, _SCALE_MIN).astype(np.float32)
    return np.round(array / scales).astype(np.int8), scales


def pack_rows(matrix: NDArray[np.float32], precision: Precision) -> NDArray[Any]:
    """(N, D) float32 -> what is written; int8 is (N,) records of a scale and D codes."""
    if precision == "fp32":
        return matrix
    if precision == "fp16":
        return matrix.astype(np.float16)
    codes, scales = quantized(matrix, axis=1)
    packed = np.empty(len(matrix), [("scale", "<f4"), ("codes", "i1", (matrix.shape[1],))])
    packed["scale"], packed["codes"] = scales[:, 0], codes
    return packed


def unpack_rows(packed: NDArray[Any]) -> NDArray[np.float32]:
    """(N, D) float32 of what ``pack_rows`` made; anything else is returned as it is."""
    if packed.dtype.names == ("scale", "codes"):
        return np.asarray(packed["codes"] * packed["scale"][:, None], np.float32)
    return packed.astype(np.float32) if packed.dtype == np.float16 else packed

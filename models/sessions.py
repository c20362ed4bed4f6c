"""ONNX Runtime sessions, and calls whose tensors stay where they are."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError

__all__ = ["device_of", "on_device", "open_session", "run_session"]

log = logging.getLogger(__name__)

_CUDA: Final = {"use_tf32": "0"}
"""Ten bits of a factor, which is what tensor cores take of a float32, are too few for what is called exact."""


def open_session(
    ort: Any, model: bytes, providers: list[str], threads: int, name: object = "a graph", *, captures: bool = False
) -> Any:
    """A session with the settings that the worker runs models with.

    Args:
        ort: the module ``onnxruntime``.
        model: a serialized graph.
        name: what an error calls it.
        captures: whether CUDA is to launch all operations of a call at once, as a graph that it has captured: calls
            of one ``gpu_graph_id`` find their tensors where they were. Where CUDA refuses it is done without.

    Raises:
        ModelError: ONNX Runtime refuses it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are shared with Kafka's loop

    def session(**of_cuda: str) -> Any:
        # Without its own way of falling back, which writes to standard output and leaves sessions on two devices.
        return ort.InferenceSession(model, options, providers=_configured(providers, of_cuda), enable_fallback=0)

    if captures and "CUDAExecutionProvider" in providers:
        try:
            return session(enable_cuda_graph="1")
        except Exception as error:
            log.warning("CUDA does not open %s to be captured, tried again without: %s", name, error)
    try:
        return session()
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load {name} ({error}); export the model again") from error


def _configured(providers: list[str], of_cuda: Mapping[str, str]) -> list[str | tuple[str, dict[str, str]]]:
    return [(each, {**_CUDA, **of_cuda}) if each == "CUDAExecutionProvider" else each for each in providers]


def device_of(session: Any) -> str:
    """Where the session really runs, "cuda" or "cpu", by its first provider."""
    return "cuda" if session.get_providers()[0] == "CUDAExecutionProvider" else "cpu"


def run_session(session: Any, inputs: Mapping[str, Any], outputs: Sequence[str]) -> list[NDArray[Any]]:
    """One call.

    Args:
        inputs: arrays, which travel to the session's device, and ``OrtValue``s, which are there. Where all are arrays
            the call takes a third of the time to set out.
    """
    arrays: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(cast(NDArray[Any], value))
        for name, value in inputs.items()
        if isinstance(value, np.ndarray)
    }
    if len(arrays) == len(inputs):
        return session.run(outputs, arrays)
    binding = session.io_binding()
    for name, value in inputs.items():
        if name in arrays:
            binding.bind_cpu_input(name, arrays[name])
        else:
            binding.bind_ortvalue_input(name, value)
    for name in outputs:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding)
    return [value.numpy() for value in binding.get_outputs()]


def on_device(ort: Any, array: NDArray[Any], device: str) -> Any:
    """An ``OrtValue`` of an array, for calls between which it stays there."""
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), device, 0)

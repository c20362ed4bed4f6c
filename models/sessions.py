"""ONNX Runtime sessions, and calls whose tensors stay where they are."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelError

__all__ = ["array_of", "device_of", "held_on", "open_session", "run_session"]


def open_session(ort: Any, model: bytes, providers: list[str], threads: int, name: object = "a graph") -> Any:
    """A session with the settings that the worker runs models with.

    Args:
        ort: the module ``onnxruntime``.
        model: a serialized graph.
        name: what an error calls it.

    Raises:
        ModelError: ONNX Runtime refuses it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are shared with Kafka's loop
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:
        raise ModelError(f"ONNX Runtime cannot load {name} ({error}); export the model again") from error


def device_of(session: Any) -> str:
    """Where the session really runs, "cuda" or "cpu", by its first provider."""
    return "cuda" if session.get_providers()[0] == "CUDAExecutionProvider" else "cpu"


def run_session(session: Any, inputs: Mapping[str, Any], outputs: Sequence[str], device: str = "cpu") -> list[Any]:
    """One call, whose outputs are left on ``device``.

    Args:
        inputs: arrays, which travel to the session's device, and ``OrtValue``s, which are there.

    Returns arrays where all inputs are, which takes a third of the time to set out, else ``OrtValue``s.
    """
    arrays: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(cast(NDArray[Any], value))
        for name, value in inputs.items()
        if isinstance(value, np.ndarray)
    }
    if device == "cpu" and len(arrays) == len(inputs):
        return session.run(outputs, arrays)
    binding = session.io_binding()
    for name, value in inputs.items():
        if name in arrays:
            binding.bind_cpu_input(name, arrays[name])
        else:
            binding.bind_ortvalue_input(name, value)
    for name in outputs:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding)
    return list(binding.get_outputs())


def held_on(ort: Any, array: NDArray[Any], device: str) -> Any:
    """What ``run_session`` is given for an array that stays on a device, and must not change any more."""
    array = np.ascontiguousarray(array)
    return array if device == "cpu" else ort.OrtValue.ortvalue_from_numpy(array, device, 0)


def array_of(value: Any) -> NDArray[Any]:
    """An output of ``run_session`` as an array."""
    return cast(NDArray[Any], value) if isinstance(value, np.ndarray) else value.numpy()

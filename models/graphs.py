"""The two ONNX graphs, built node by node. The item matrix is an input of both: rows can change in a live session."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.precision import quantized

__all__ = ["IR_VERSION", "OPSET", "advance_graph", "compressed", "matmul_graph", "rank_graph"]

OPSET: Final = 20
IR_VERSION: Final = 10
NORM_EPSILON: Final = 1e-5

Weights = dict[str, NDArray[np.float32]]
Tensors = dict[str, tuple[Any, list[int | str]]]
"""Name -> element type and shape."""


class _Graph:
    """Collects nodes and constants; every method returns the name of a tensor.

    A body sees the constants of the graph around it.
    """

    def __init__(self, prefix: str = "") -> None:
        self.helper: Any = importlib.import_module("onnx.helper")
        self.numpy_helper: Any = importlib.import_module("onnx.numpy_helper")
        self._prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(self.numpy_helper.from_array(value, name))
        return name

    def op(self, kind: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        return self.ops(kind, inputs, [to or self._name(kind)], **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> list[str]:
        self.nodes.append(self.helper.make_node(kind, inputs, outputs, name=self._name(kind), **attributes))
        return list(outputs)

    def split(self, tensor: str, sizes: str, parts: int) -> list[str]:
        return self.ops("Split", [tensor, sizes], [f"{self._name('part')}_{j}" for j in range(parts)], axis=1)

    def norm(self, x: str, name: str) -> str:
        return self.op("LayerNormalization", x, f"{name}.scale", f"{name}.bias", epsilon=NORM_EPSILON)

    def linear(self, x: str, name: str) -> str:
        return self.op("Gemm", x, f"{name}.weight", f"{name}.bias")

    def graph(self, name: str, inputs: Tensors, outputs: Tensors) -> Any:
        def info(tensors: Tensors) -> list[Any]:
            return [self.helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in tensors.items()]

        return self.helper.make_graph(self.nodes, name, info(inputs), info(outputs), self.constants)

    def model(self, name: str, inputs: Tensors, outputs: Tensors) -> bytes:
        opset = self.helper.make_opsetid("", OPSET)
        made = self.helper.make_model(
            self.graph(name, inputs, outputs), opset_imports=[opset], ir_version=IR_VERSION, producer_name="headwater"
        )
        importlib.import_module("onnx.checker").check_model(made, full_check=True)
        return bytes(made.SerializeToString())

    def _name(self, kind: str) -> str:
        return f"{self._prefix}{kind.lower()}_{len(self.nodes)}"


def advance_graph(weights: Weights, blocks: int) -> bytes:
    """The events of a packed batch, one wave after the other (``operators.interest.Encoder.advance``).

    hidden (B, S), item_rows, event_types, gaps (P,) int64, waves (T,) int64, item_embeddings (N, D) -> hidden_out
    (B, S), vector (B, D). ``weights`` are those of ``models.export.fold``; S = blocks x (real, imaginary) x channels.

    All waves are one call: the loop is a node, so that the interpreter is left once a batch and states stay on the
    device. Nothing that follows the last block's recurrence reaches a state, so it is done once, for the last wave.
    """
    graph = _Graph()
    kinds: Any = importlib.import_module("onnx").TensorProto
    width, channels = weights["type_embeddings"].shape[1], len(weights["0.decay_real"])
    for name, value in weights.items():
        if ".decay_" not in name:
            graph.constant(name, value)
    for block in range(blocks):
        real, imaginary = weights[f"{block}.decay_real"], weights[f"{block}.decay_imaginary"]
        graph.constant(f"{block}.keep", np.concatenate([real, real]))
        graph.constant(f"{block}.turn", np.concatenate([-imaginary, imaginary]))
    graph.constant("none", np.array([0], np.int64))
    graph.constant("true", np.array(True))
    graph.constant("halves", np.array([channels] * 2, np.int64))
    item = graph.op("Gather", "item_embeddings", "item_rows")  # (P, D)
    types, gaps = graph.op("Gather", "type_embeddings", "event_types"), graph.op("Gather", "gap_embeddings", "gaps")
    inputs = graph.norm(graph.op("Add", item, graph.op("Add", types, gaps)), "norm")
    graph.op("Identity", inputs, to="inputs")
    of_blocks = graph.constant("blocks", np.array([2 * channels] * blocks, np.int64))
    starts = graph.ops("Split", ["hidden", of_blocks], [f"{block}.start" for block in range(blocks)], axis=1)
    before = [graph.op("Slice", start, "none", "none", "none") for start in starts]  # (0, 2H) each
    before.append(graph.op("Slice", "inputs", "none", "none", "none"))
    waves = graph.op("Squeeze", graph.op("Shape", "waves"))
    body = _wave(width, channels, blocks)
    *_, last = ends = graph.ops(
        "Loop",
        [waves, "true", "none", "none", *before],
        ["events", "users", *(f"{block}.end" for block in range(blocks)), "last"],
        body=body,
    )
    states = ends[2:-1]
    graph.op("Concat", *states, to="hidden_out", axis=1)
    graph.op("Identity", _mix(graph, last, states[-1], blocks - 1), to="vector")
    hidden: tuple[Any, list[int | str]] = (kinds.FLOAT, ["users", 2 * blocks * channels])
    indices: tuple[Any, list[int | str]] = (kinds.INT64, ["events"])
    return graph.model(
        "advance",
        {
            "hidden": hidden,
            "item_rows": indices,
            "event_types": indices,
            "gaps": indices,
            "waves": (kinds.INT64, ["waves"]),
            "item_embeddings": (kinds.FLOAT, ["items", width]),
        },
        {"hidden_out": hidden, "vector": (kinds.FLOAT, ["users", width])},
    )


def _wave(width: int, channels: int, blocks: int) -> Any:
    """Body of the loop: the users of the wave before and those who join them take one step.

    Carries the events done, the users of the wave, the state of each block, and the input of the last block's mixing.
    """
    wave = _Graph("wave_")
    kinds: Any = importlib.import_module("onnx").TensorProto
    users = wave.op("Gather", "waves", wave.op("Unsqueeze", "number", "none"))  # (1,)
    done = wave.op("Add", "done_before", users)
    x = wave.op("Slice", "inputs", "done_before", done, "none")  # (n, D)
    states: list[str] = []
    for block in range(blocks):
        joining = wave.op("Slice", f"{block}.start", "users_before", users, "none")
        h = wave.op("Concat", f"{block}.before", joining, axis=0)  # (n, 2H)
        real, imaginary = wave.split(h, "halves", 2)
        turned = wave.op("Mul", wave.op("Concat", imaginary, real, axis=1), f"{block}.turn")
        decayed = wave.op("Add", wave.op("Mul", h, f"{block}.keep"), turned)
        states.append(wave.op("Add", decayed, wave.linear(x, f"{block}.b")))
        if block < blocks - 1:
            x = _mix(wave, x, states[-1], block)
    carried = [done, users, *states, x]
    outputs = [wave.op("Identity", name) for name in ("goes_on", *carried)]

    def shapes(size: str) -> list[tuple[Any, list[int | str]]]:
        of_states = [(kinds.FLOAT, [f"{size}_{block}", 2 * channels]) for block in range(blocks)]
        return [(kinds.INT64, [1]), (kinds.INT64, [1]), *of_states, (kinds.FLOAT, [size, width])]

    names = ["done_before", "users_before", *(f"{block}.before" for block in range(blocks)), "x_before"]
    goes_on: tuple[Any, list[int | str]] = (kinds.BOOL, [])
    return wave.graph(
        "wave",
        {"number": (kinds.INT64, []), "goes_on": goes_on, **dict(zip(names, shapes("before"), strict=True))},
        dict(zip(outputs, [goes_on, *shapes("now")], strict=True)),
    )


def _mix(graph: _Graph, x: str, state: str, block: int) -> str:
    """Read-out and feed-forward layer of a block: its input (n, D) and new state (n, 2H) -> its output (n, D)."""
    z = graph.norm(graph.op("Add", x, graph.linear(state, f"{block}.c")), f"{block}.norm1")
    wide = graph.op("Gelu", graph.linear(z, f"{block}.w1"))
    return graph.norm(graph.op("Add", z, graph.linear(wide, f"{block}.w2")), f"{block}.norm2")


def rank_graph(width: int) -> bytes:
    """Exact k best: vector (B, D), item_embeddings (N, D), item_bias (N,), k (1,) -> scores (B, k), rows (B, k)."""
    graph = _Graph()
    kinds: Any = importlib.import_module("onnx").TensorProto
    every = graph.op("Gemm", "vector", "item_embeddings", "item_bias", transB=1)  # (B, N)
    graph.ops("TopK", [every, "k"], ["scores", "rows"], axis=1, largest=1, sorted=1)
    return graph.model(
        "rank",
        {
            "vector": (kinds.FLOAT, ["batch", width]),
            "item_embeddings": (kinds.FLOAT, ["items", width]),
            "item_bias": (kinds.FLOAT, ["items"]),
            "k": (kinds.INT64, [1]),
        },
        {"scores": (kinds.FLOAT, ["batch", "list"]), "rows": (kinds.INT64, ["batch", "list"])},
    )


def matmul_graph() -> bytes:
    """a (M, K), b (K, N) -> c (M, N): what a processor does at most."""
    graph = _Graph()
    kinds: Any = importlib.import_module("onnx").TensorProto
    graph.op("MatMul", "a", "b", to="c")
    return graph.model(
        "matmul",
        {"a": (kinds.FLOAT, ["rows", "inner"]), "b": (kinds.FLOAT, ["inner", "columns"])},
        {"c": (kinds.FLOAT, ["rows", "columns"])},
    )


def compressed(graph: bytes, coarse: Callable[[str], bool]) -> bytes:
    """``graph`` with its constant matrices in fewer bits: int8 where ``coarse`` says so of the name, else fp16.

    A matrix is spread to float32 by nodes that ONNX Runtime computes once, when it loads the graph. Vectors stay as
    they are: an eigenvalue near 1 in fp16 remembers another number of events.
    """
    onnx: Any = importlib.import_module("onnx")
    made, single = onnx.helper.make_node, onnx.TensorProto.FLOAT
    model = onnx.load_from_string(graph)
    constants: list[Any] = []
    nodes: list[Any] = []
    for tensor in model.graph.initializer:
        name, array = str(tensor.name), onnx.numpy_helper.to_array(tensor)
        if array.ndim != 2 or array.dtype != np.float32:
            constants.append(tensor)
        elif coarse(name):
            for part, values in zip(("codes", "scales"), quantized(array, axis=0), strict=True):
                constants.append(onnx.numpy_helper.from_array(values, f"{name}.{part}"))
            nodes.append(made("Cast", [f"{name}.codes"], [f"{name}.spread"], to=single))
            nodes.append(made("Mul", [f"{name}.spread", f"{name}.scales"], [name]))
        else:
            constants.append(onnx.numpy_helper.from_array(array.astype(np.float16), f"{name}.half"))
            nodes.append(made("Cast", [f"{name}.half"], [name], to=single))
    whole = onnx.helper.make_graph(
        [*nodes, *model.graph.node], model.graph.name, model.graph.input, model.graph.output, constants
    )
    packed = onnx.helper.make_model(whole, opset_imports=model.opset_import, ir_version=IR_VERSION)
    packed.producer_name = model.producer_name
    onnx.checker.check_model(packed, full_check=True)
    return bytes(packed.SerializeToString())

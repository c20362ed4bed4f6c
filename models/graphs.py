"""The two ONNX graphs, built node by node. The item matrix is an input of both: rows can change in a live session."""

import importlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.precision import quantized

__all__ = ["IR_VERSION", "OPSET", "compressed", "matmul_graph", "rank_graph", "step_graph"]

OPSET: Final = 20
IR_VERSION: Final = 10
NORM_EPSILON: Final = 1e-5

Weights = dict[str, NDArray[np.float32]]


class _Graph:
    """Collects nodes and constants; every method returns the name of a tensor."""

    def __init__(self) -> None:
        self.helper: Any = importlib.import_module("onnx.helper")
        self.numpy_helper: Any = importlib.import_module("onnx.numpy_helper")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(self.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(self, kind: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        name = to or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def split(self, tensor: str, sizes: list[int]) -> list[str]:
        names = [f"{tensor}_part{len(self.nodes)}_{j}" for j in range(len(sizes))]
        size = self.constant(f"sizes_{len(self.nodes)}", np.array(sizes, np.int64))
        self.nodes.append(self.helper.make_node("Split", [tensor, size], names, axis=1))
        return names

    def model(self, name: str, inputs: dict[str, Any], outputs: dict[str, Any]) -> bytes:
        def info(tensors: dict[str, Any]) -> list[Any]:
            return [self.helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in tensors.items()]

        graph = self.helper.make_graph(self.nodes, name, info(inputs), info(outputs), self.constants)
        opset = self.helper.make_opsetid("", OPSET)
        made = self.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="headwater")
        importlib.import_module("onnx.checker").check_model(made, full_check=True)
        return bytes(made.SerializeToString())


def step_graph(weights: Weights, blocks: int) -> bytes:
    """One event for each of B users.

    hidden (B, S), item_rows, event_types, gaps (B,) int64, item_embeddings (N, D) -> hidden_out (B, S),
    vector (B, D). ``weights`` are those of ``models.export.fold``; S = blocks x (real, imaginary) x channels.
    """
    graph = _Graph()
    kinds: Any = importlib.import_module("onnx").TensorProto
    width, channels = weights["type_embeddings"].shape[1], len(weights["0.decay_real"])
    constant = {name: graph.constant(name, value) for name, value in weights.items()}

    def norm(x: str, name: str) -> str:
        return graph.op(
            "LayerNormalization", x, constant[f"{name}.scale"], constant[f"{name}.bias"], epsilon=NORM_EPSILON
        )

    def linear(x: str, name: str) -> str:
        return graph.op("Gemm", x, constant[f"{name}.weight"], constant[f"{name}.bias"])

    item = graph.op("Gather", "item_embeddings", "item_rows")  # (B, D)
    context = graph.op(
        "Add",
        graph.op("Gather", constant["type_embeddings"], "event_types"),
        graph.op("Gather", constant["gap_embeddings"], "gaps"),
    )
    x = norm(graph.op("Add", item, context), "norm")
    parts = graph.split("hidden", [channels] * (2 * blocks))
    states: list[str] = []
    for block in range(blocks):
        real, imaginary = parts[2 * block : 2 * block + 2]  # (B, H) each
        lr, li = constant[f"{block}.decay_real"], constant[f"{block}.decay_imaginary"]  # (H,)
        u_real, u_imaginary = graph.split(linear(x, f"{block}.b"), [channels] * 2)
        turned_real = graph.op("Sub", graph.op("Mul", real, lr), graph.op("Mul", imaginary, li))
        turned_imaginary = graph.op("Add", graph.op("Mul", real, li), graph.op("Mul", imaginary, lr))
        states += [graph.op("Add", turned_real, u_real), graph.op("Add", turned_imaginary, u_imaginary)]
        y = linear(graph.op("Concat", *states[-2:], axis=1), f"{block}.c")  # (B, 2H) -> (B, D)
        z = norm(graph.op("Add", x, y), f"{block}.norm1")
        wide = graph.op("Gelu", linear(z, f"{block}.w1"))
        x = norm(graph.op("Add", z, linear(wide, f"{block}.w2")), f"{block}.norm2")
    graph.op("Concat", *states, to="hidden_out", axis=1)
    graph.op("Identity", x, to="vector")
    hidden = (kinds.FLOAT, ["batch", 2 * blocks * channels])
    indices = (kinds.INT64, ["batch"])
    return graph.model(
        "step",
        {
            "hidden": hidden,
            "item_rows": indices,
            "event_types": indices,
            "gaps": indices,
            "item_embeddings": (kinds.FLOAT, ["items", width]),
        },
        {"hidden_out": hidden, "vector": (kinds.FLOAT, ["batch", width])},
    )


def rank_graph(width: int) -> bytes:
    """Exact k best: vector (B, D), item_embeddings (N, D), item_bias (N,), k (1,) -> scores (B, k), rows (B, k)."""
    graph = _Graph()
    kinds: Any = importlib.import_module("onnx").TensorProto
    every = graph.op("Gemm", "vector", "item_embeddings", "item_bias", transB=1)  # (B, N)
    graph.nodes.append(graph.helper.make_node("TopK", [every, "k"], ["scores", "rows"], axis=1, largest=1, sorted=1))
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

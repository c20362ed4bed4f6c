"""The ONNX graphs, built node by node. The item matrix is an input: rows can change in a live session."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from models.onnx_graph import IR_VERSION, Graph, Tensor, Tensors, Weights
from models.precision import quantized

__all__ = ["compressed", "first_inputs", "matmul_graph", "mix", "rank_graph", "stage_graph"]


def stage_graph(weights: Weights, stage: int, blocks: int) -> bytes:
    """What lies between two recurrences, for all P events of a call at once.

    The recurrent unit is linear (Orvieto et al. 2023), so that nothing but its elementwise recurrence has to go event
    by event: every matrix product is in a stage. ``weights`` are those of ``models.export.fold``, H is the channels.

    Stage 0: item_rows, event_types, gaps (P,) int64, item_embeddings (N, D) -> x (P, D), u (P, 2H).
    Stage n: x_before (P, D), h (P, 2H), the state after each event -> x, u of the next block.
    Stage ``blocks``: also places (B,) int64, of each user's last event -> vector (B, D).
    """
    graph = Graph(weights)
    kinds: Any = importlib.import_module("onnx").TensorProto
    width, states = weights["0.b.weight"].shape
    of_events: Tensor = (kinds.INT64, ["events"])
    x_of_events: Tensor = (kinds.FLOAT, ["events", width])
    states_of_events: Tensor = (kinds.FLOAT, ["events", states])
    if stage == 0:
        columns = ("item_rows", "event_types", "gaps")
        x = first_inputs(graph, *columns)
        inputs: Tensors = dict.fromkeys(columns, of_events)
        inputs["item_embeddings"] = (kinds.FLOAT, ["items", width])
    elif stage < blocks:
        x = mix(graph, "x_before", "h", stage - 1)
        inputs = {"x_before": x_of_events, "h": states_of_events}
    else:  # nothing that follows the last recurrence reaches a state: it is done for the last events alone
        last = graph.op("Gather", "x_before", "places"), graph.op("Gather", "h", "places")
        graph.op("Identity", mix(graph, *last, stage - 1), to="vector")
        inputs = {"x_before": x_of_events, "h": states_of_events, "places": (kinds.INT64, ["users"])}
        return graph.model(f"stage_{stage}", inputs, {"vector": (kinds.FLOAT, ["users", width])})
    graph.op("Identity", x, to="x")
    graph.op("Identity", graph.linear(x, f"{stage}.b"), to="u")
    return graph.model(f"stage_{stage}", inputs, {"x": x_of_events, "u": states_of_events})


def first_inputs(graph: Graph, item_rows: str, event_types: str, gaps: str) -> str:
    """What the first block is given of each event, (P, D)."""
    item = graph.op("Gather", "item_embeddings", item_rows)
    of_type = graph.op("Gather", graph.weight("type_embeddings"), event_types)
    of_gap = graph.op("Gather", graph.weight("gap_embeddings"), gaps)
    return graph.norm(graph.op("Add", item, graph.op("Add", of_type, of_gap)), "norm")


def mix(graph: Graph, x: str, state: str, block: int) -> str:
    """Read-out and feed-forward layer of a block: its input (n, D) and new state (n, 2H) -> its output (n, D)."""
    z = graph.norm(graph.op("Add", x, graph.linear(state, f"{block}.c")), f"{block}.norm1")
    wide = graph.op("Gelu", graph.linear(z, f"{block}.w1"))
    return graph.norm(graph.op("Add", z, graph.linear(wide, f"{block}.w2")), f"{block}.norm2")


def rank_graph(width: int) -> bytes:
    """Exact k best: vector (B, D), item_embeddings (N, D), item_bias (N,), k (1,) -> scores (B, k), rows (B, k)."""
    graph = Graph()
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


def matmul_graph(kind: type[np.floating[Any]] = np.float32) -> bytes:
    """a (M, K), b (K, N) -> c (M, N): what a processor does at most."""
    graph = Graph()
    element = graph.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph.op("MatMul", "a", "b", to="c")
    return graph.model(
        "matmul",
        {"a": (element, ["rows", "inner"]), "b": (element, ["inner", "columns"])},
        {"c": (element, ["rows", "columns"])},
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

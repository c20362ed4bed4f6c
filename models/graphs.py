"""The ONNX graphs, built node by node. The item matrix is an input: rows can change in a live session."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.precision import quantized

__all__ = ["IR_VERSION", "OPSET", "compressed", "matmul_graph", "rank_graph", "recurrence_graph", "stage_graph"]

OPSET: Final = 20
IR_VERSION: Final = 10
NORM_EPSILON: Final = 1e-5

Weights = dict[str, NDArray[np.float32]]
Tensor = tuple[Any, list[int | str]]
"""Element type and shape."""
Tensors = dict[str, Tensor]


class _Graph:
    """Collects nodes and constants, among them the weights that are used; every method returns the name of a tensor.

    A body sees the tensors of the graph around it.
    """

    def __init__(self, weights: Weights | None = None, prefix: str = "") -> None:
        self.helper: Any = importlib.import_module("onnx.helper")
        self.numpy_helper: Any = importlib.import_module("onnx.numpy_helper")
        self._weights = weights or {}
        self._prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants.append(self.numpy_helper.from_array(value, name))
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self._weights[name])

    def op(self, kind: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        return self.ops(kind, inputs, [to or self._name(kind)], **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> list[str]:
        self.nodes.append(self.helper.make_node(kind, inputs, outputs, name=self._name(kind), **attributes))
        return list(outputs)

    def halves(self, tensor: str, axis: int) -> list[str]:
        name = self._name("half")
        return self.ops("Split", [tensor], [f"{name}_{half}" for half in range(2)], axis=axis, num_outputs=2)

    def norm(self, x: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.scale"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", x, scale, bias, epsilon=NORM_EPSILON)

    def linear(self, x: str, name: str) -> str:
        return self.op("Gemm", x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"))

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


def stage_graph(weights: Weights, stage: int, blocks: int) -> bytes:
    """What lies between two recurrences, for all P events of a call at once.

    The recurrent unit is linear (Orvieto et al. 2023), so that nothing but its elementwise recurrence has to go event
    by event: every matrix product is in a stage. ``weights`` are those of ``models.export.fold``, H is the channels.

    Stage 0: item_rows, event_types, gaps (P,) int64, item_embeddings (N, D) -> x (P, D), u (P, 2H).
    Stage n: x_before (P, D), h (P, 2H), the state after each event -> x, u of the next block.
    Stage ``blocks``: also places (B,) int64, of each user's last event -> vector (B, D).
    """
    graph = _Graph(weights)
    kinds: Any = importlib.import_module("onnx").TensorProto
    width, states = weights["0.b.weight"].shape
    of_events: Tensor = (kinds.INT64, ["events"])
    x_of_events: Tensor = (kinds.FLOAT, ["events", width])
    states_of_events: Tensor = (kinds.FLOAT, ["events", states])
    if stage == 0:
        x = _inputs(graph)
        inputs: Tensors = dict.fromkeys(("item_rows", "event_types", "gaps"), of_events)
        inputs["item_embeddings"] = (kinds.FLOAT, ["items", width])
    elif stage < blocks:
        x = _mix(graph, "x_before", "h", stage - 1)
        inputs = {"x_before": x_of_events, "h": states_of_events}
    else:  # nothing that follows the last recurrence reaches a state: it is done for the last events alone
        last = graph.op("Gather", "x_before", "places"), graph.op("Gather", "h", "places")
        graph.op("Identity", _mix(graph, *last, stage - 1), to="vector")
        inputs = {"x_before": x_of_events, "h": states_of_events, "places": (kinds.INT64, ["users"])}
        return graph.model(f"stage_{stage}", inputs, {"vector": (kinds.FLOAT, ["users", width])})
    graph.op("Identity", x, to="x")
    graph.op("Identity", graph.linear(x, f"{stage}.b"), to="u")
    return graph.model(f"stage_{stage}", inputs, {"x": x_of_events, "u": states_of_events})


def _inputs(graph: _Graph) -> str:
    """What the first block is given of each event, (P, D)."""
    item = graph.op("Gather", "item_embeddings", "item_rows")
    types = graph.op("Gather", graph.weight("type_embeddings"), "event_types")
    gaps = graph.op("Gather", graph.weight("gap_embeddings"), "gaps")
    return graph.norm(graph.op("Add", item, graph.op("Add", types, gaps)), "norm")


def _mix(graph: _Graph, x: str, state: str, block: int) -> str:
    """Read-out and feed-forward layer of a block: its input (n, D) and new state (n, 2H) -> its output (n, D)."""
    z = graph.norm(graph.op("Add", x, graph.linear(state, f"{block}.c")), f"{block}.norm1")
    wide = graph.op("Gelu", graph.linear(z, f"{block}.w1"))
    return graph.norm(graph.op("Add", z, graph.linear(wide, f"{block}.w2")), f"{block}.norm2")


def recurrence_graph() -> bytes:
    """``operators.kernels.recur`` where no compiled code reaches: on a GPU.

    u (P, 2H), positions (P,) int64, of each event among its user's, firsts and places (B,) int64, of each user's first
    and last event, start (B, 2H), decay (2, H), doublings () int64 -> h (P, 2H), end (B, 2H).

    After n doublings h holds the newest 2**n events of its user (Hillis and Steele 1986, "Data Parallel Algorithms"),
    so that the longest history takes the logarithm of its length, not a round an event.
    """
    graph = _Graph()
    kinds: Any = importlib.import_module("onnx").TensorProto
    for name, value in (("first", 0), ("second", 1), ("true", True)):
        graph.constant(name, np.array(value))
    graph.constant("lag", np.array([1], np.int64))
    real, imaginary = graph.halves("decay", axis=0)  # (1, H) each
    of_first = graph.op("Unsqueeze", "firsts", "lag")  # (B, 1)
    begun = graph.op("ScatterND", "u", of_first, _decayed(graph, "start", real, imaginary), reduction="add")
    size = graph.op("Squeeze", graph.op("Shape", "positions"))
    graph.op("Range", "first", size, "second", to="events")
    graph.op("Unsqueeze", "positions", "lag", to="places_in_history")  # (P, 1)
    carried = [begun, real, imaginary, "lag"]
    h, *_ = graph.ops(
        "Loop", ["doublings", "true", *carried], ["h", "power_real", "power_imaginary", "reach"], body=_doubling()
    )
    graph.op("Gather", h, "places", to="end")
    of_events: Tensor = (kinds.FLOAT, ["size", "states"])
    of_users: Tensor = (kinds.FLOAT, ["users", "states"])
    inputs: Tensors = {
        "u": of_events,
        "positions": (kinds.INT64, ["size"]),
        "firsts": (kinds.INT64, ["users"]),
        "places": (kinds.INT64, ["users"]),
        "start": of_users,
        "decay": (kinds.FLOAT, [2, "channels"]),
        "doublings": (kinds.INT64, []),
    }
    return graph.model("recurrence", inputs, {"h": of_events, "end": of_users})


def _doubling() -> Any:
    """Body of the loop: every state takes in the one ``lag`` events before it, decayed that often."""
    body = _Graph(prefix="doubling_")
    kinds: Any = importlib.import_module("onnx").TensorProto
    body.constant("nothing", np.zeros(1, np.float32))
    earlier = body.op("Gather", "before", body.op("Max", body.op("Sub", "events", "lag_now"), "first"))  # (P, 2H)
    is_own = body.op("GreaterOrEqual", "places_in_history", "lag_now")  # (P, 1)
    added = body.op("Where", is_own, _decayed(body, earlier, "real", "imaginary"), "nothing")
    both = body.op("Mul", "real", "imaginary")
    squares = body.op("Mul", "real", "real"), body.op("Mul", "imaginary", "imaginary")
    following = [
        body.op("Add", "before", added),
        body.op("Sub", *squares),
        body.op("Add", both, both),
        body.op("Add", "lag_now", "lag_now"),
    ]
    goes_on: Tensor = (kinds.BOOL, [])
    carried: list[Tensor] = [
        (kinds.FLOAT, ["size", "states"]),
        (kinds.FLOAT, [1, "channels"]),
        (kinds.FLOAT, [1, "channels"]),
        (kinds.INT64, [1]),
    ]
    names = ["before", "real", "imaginary", "lag_now"]
    still = body.op("Identity", "goes_on")
    return body.graph(
        "doubling",
        {"number": (kinds.INT64, []), "goes_on": goes_on, **dict(zip(names, carried, strict=True))},
        {still: goes_on, **dict(zip(following, carried, strict=True))},
    )


def _decayed(graph: _Graph, state: str, real: str, imaginary: str) -> str:
    """Complex products of states (n, 2H), real halves first, and eigenvalues (1, H)."""
    of_state = graph.halves(state, axis=1)
    products = [[graph.op("Mul", half, part) for part in (real, imaginary)] for half in of_state]
    turned = graph.op("Sub", products[0][0], products[1][1]), graph.op("Add", products[0][1], products[1][0])
    return graph.op("Concat", *turned, axis=1)


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

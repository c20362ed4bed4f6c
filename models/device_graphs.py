"""The ONNX graphs of a GPU: a whole call in one graph of fixed operations, so that it can be captured and replayed.

Users' states stay on the device, in the rows of one matrix, the slots; a call reads and writes those that it names.
"""

import importlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.graphs import first_inputs, mix
from models.onnx_graph import Graph, Tensor, Tensors, Weights

__all__ = [
    "EVENT_ROWS",
    "ROUND_EVENTS_MAX",
    "USER_ROWS",
    "half_products",
    "put_graph",
    "shortlist_graph",
    "step_graph",
    "step_inputs",
]

_DOUBLINGS: Final = 6
ROUND_EVENTS_MAX: Final = 2**_DOUBLINGS
"""Events of one user that a call of ``step_graph`` takes in."""

EVENT_ROWS: Final = ("item_row", "type", "gap", "position", "first")
"""Rows of the input ``events``: of each event its inputs, its number among its user's, and where those begin."""
USER_ROWS: Final = ("source", "target", "first", "last")
"""Rows of the input ``users``: slots of each one's state before and after, places of its first and last event."""


def step_graph(weights: Weights, decay: NDArray[np.float32]) -> bytes:
    """The products and the recurrence of P events of B users.

    hold (L, S), slots, item_embeddings (N, D), events (5, P) and users (4, B) int64
    -> hidden (B, S), vector (B, D), hold_after (L, S), which may be the same memory as hold.

    The recurrence goes by doublings (Hillis and Steele 1986, "Data Parallel Algorithms"): after n of them a state
    holds the newest 2**n events of its user. Their number is fixed, because a captured graph has no loop.

    Args:
        weights: of ``models.export.fold``.
        decay: (blocks, 2, H), real and imaginary parts of the eigenvalues.
    """
    graph = Graph(weights)
    kinds: Any = importlib.import_module("onnx").TensorProto
    blocks, channels = len(decay), decay.shape[2]
    width = weights["0.b.weight"].shape[0]
    for axis in (0, 1):
        graph.constant(f"axis_{axis}", np.array([axis], np.int64))
    item_rows, types, gaps, positions, firsts = _rows(graph, "events", len(EVENT_ROWS))
    source, target, first, last = _rows(graph, "users", len(USER_ROWS))
    before = graph.op("Gather", "hold", source)
    starts = graph.parts(before, blocks, axis=1) if blocks > 1 else [before]
    lags = _Lags(graph, positions, firsts)
    of_first = graph.op("Unsqueeze", first, "axis_1")
    x = first_inputs(graph, item_rows, types, gaps)
    ends: list[str] = []
    for block in range(blocks):
        u = graph.linear(x, f"{block}.b")
        h = lags.states(u, starts[block], of_first, decay[block], block)
        ends.append(graph.op("Gather", h, last))
        if block < blocks - 1:
            x = mix(graph, x, h, block)
    graph.op("Identity", mix(graph, graph.op("Gather", x, last), ends[-1], blocks - 1), to="vector")
    hidden = graph.op("Concat", *ends, to="hidden", axis=1)
    graph.op("ScatterND", "hold", graph.op("Unsqueeze", target, "axis_1"), hidden, to="hold_after")
    states = 2 * channels * blocks
    slots: Tensor = (kinds.FLOAT, ["slots", states])
    inputs: Tensors = {
        "hold": slots,
        "item_embeddings": (kinds.FLOAT, ["items", width]),
        "events": (kinds.INT64, [len(EVENT_ROWS), "size"]),
        "users": (kinds.INT64, [len(USER_ROWS), "users_size"]),
    }
    hidden_and_vector: Tensors = {
        "hidden": (kinds.FLOAT, ["users_size", states]),
        "vector": (kinds.FLOAT, ["users_size", width]),
    }
    return graph.model("step", inputs, hidden_and_vector | {"hold_after": slots})


def step_inputs(
    columns: Sequence[NDArray[np.int64]],
    lengths: NDArray[np.int64],
    sources: NDArray[np.int64],
    targets: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """``events`` (5, P) and ``users`` (4, B) of ``step_graph``.

    Args:
        columns: rows, types and gaps (P,) of the events, user by user.
        lengths: (B,) events of each user.
        sources, targets: (B,) slots of the states before and after.
    """
    ends = np.cumsum(lengths)
    firsts = ends - lengths
    of_events = np.repeat(firsts, lengths)
    events = np.array([*columns, np.arange(len(of_events)) - of_events, of_events])
    return events, np.array([sources, targets, firsts, ends - 1])


def _rows(graph: Graph, matrix: str, count: int) -> list[str]:
    return [graph.op("Squeeze", row, "axis_0") for row in graph.parts(matrix, count, axis=0)]


class _Lags:
    """For every doubling, which event of the user's a state takes in, and whether there is one; one for all blocks."""

    def __init__(self, graph: Graph, positions: str, firsts: str) -> None:
        self._graph = graph
        graph.constant("nothing", np.zeros(1, np.float32))
        places = graph.op("Add", positions, firsts)
        column = graph.op("Unsqueeze", positions, "axis_1")
        self._of_doubling: list[tuple[str, str]] = []
        for doubling in range(_DOUBLINGS):
            lag = graph.constant(f"lag_{doubling}", np.array([2**doubling], np.int64))
            earlier = graph.op("Max", graph.op("Sub", places, lag), firsts)
            self._of_doubling.append((earlier, graph.op("GreaterOrEqual", column, lag)))

    def states(self, u: str, start: str, of_first: str, decay: NDArray[np.float32], block: int) -> str:
        """Inputs (P, 2H) of a block and states (B, 2H) before the events -> states (P, 2H) after each of them."""
        graph = self._graph
        power = decay[0].astype(np.complex128) + 1j * decay[1]
        h = graph.op("ScatterND", u, of_first, self._decayed(start, power, f"{block}.start"), reduction="add")
        for doubling, (earlier, is_own) in enumerate(self._of_doubling):
            added = self._decayed(graph.op("Gather", h, earlier), power, f"{block}.{doubling}")
            h = graph.op("Add", h, graph.op("Where", is_own, added, "nothing"))
            power = power**2
        return h

    def _decayed(self, states: str, power: NDArray[np.complex128], name: str) -> str:
        """Complex products of states (n, 2H), real halves first, and powers of the eigenvalues (H,)."""
        graph = self._graph
        real = graph.constant(f"{name}.real", power.real.astype(np.float32))
        imaginary = graph.constant(f"{name}.imaginary", power.imag.astype(np.float32))
        products = [[graph.op("Mul", half, part) for part in (real, imaginary)] for half in graph.parts(states, 2, 1)]
        turned = graph.op("Sub", products[0][0], products[1][1]), graph.op("Add", products[0][1], products[1][0])
        return graph.op("Concat", *turned, axis=1)


def put_graph(states: int) -> bytes:
    """hold (L, S), slots (n, 1) int64, hidden (n, S) -> hold_after (L, S), which may be the same memory as hold."""
    graph = Graph()
    kinds: Any = importlib.import_module("onnx").TensorProto
    graph.op("ScatterND", "hold", "slots", "hidden", to="hold_after")
    hold: Tensor = (kinds.FLOAT, ["all", states])
    inputs: Tensors = {"hold": hold, "slots": (kinds.INT64, ["some", 1]), "hidden": (kinds.FLOAT, ["some", states])}
    return graph.model("put", inputs, {"hold_after": hold})


def shortlist_graph(width: int) -> bytes:
    """``models.graphs.rank_graph`` with an item matrix (N, D) in fp16.

    Every item is scored in fp16; the best ``shortlist`` (1,) of them are scored again in fp32, which makes the list.
    """
    graph = Graph()
    kinds: Any = importlib.import_module("onnx").TensorProto
    single, half = kinds.FLOAT, kinds.FLOAT16
    vector, bias = graph.cast("vector", half), graph.cast("item_bias", half)
    every = graph.op("Gemm", vector, "item_embeddings", bias, transB=1)  # (B, N)
    _, found = graph.ops("TopK", [every, "shortlist"], ["rough", "found"], axis=1, largest=1, sorted=1)
    candidates = graph.cast(graph.op("Gather", "item_embeddings", found), single)  # (B, C, D)
    column = graph.op("Unsqueeze", "vector", graph.constant("last_axis", np.array([2], np.int64)))  # (B, D, 1)
    products = graph.op("Squeeze", graph.op("MatMul", candidates, column), "last_axis")  # (B, C)
    exact = graph.op("Add", products, graph.op("Gather", "item_bias", found))
    _, places = graph.ops("TopK", [exact, "k"], ["scores", "places"], axis=1, largest=1, sorted=1)
    graph.op("GatherElements", found, places, to="rows", axis=1)
    return graph.model(
        "shortlist",
        {
            "vector": (single, ["batch", width]),
            "item_embeddings": (half, ["items", width]),
            "item_bias": (single, ["items"]),
            "shortlist": (kinds.INT64, [1]),
            "k": (kinds.INT64, [1]),
        },
        {"scores": (single, ["batch", "list"]), "rows": (kinds.INT64, ["batch", "list"])},
    )


def half_products(graph: bytes) -> bytes:
    """``graph`` with its products in fp16; what is between them, and what adds up over the events, stays in fp32."""
    onnx: Any = importlib.import_module("onnx")
    made, kinds = onnx.helper.make_node, onnx.TensorProto
    model = onnx.load_from_string(graph)
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.op_type != "Gemm":
            nodes.append(node)
            continue
        halves = [f"{node.name}.half_{n}" for n in range(len(node.input))]
        nodes += [made("Cast", [of], [to], to=kinds.FLOAT16) for of, to in zip(node.input, halves, strict=True)]
        nodes.append(made("Gemm", halves, [f"{node.name}.half"], name=node.name))
        nodes.append(made("Cast", [f"{node.name}.half"], list(node.output), to=kinds.FLOAT))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())

"""What the ONNX graphs are built with: nodes and constants, one by one."""

import importlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["IR_VERSION", "OPSET", "Graph", "Tensor", "Tensors", "Weights"]

OPSET: Final = 20
IR_VERSION: Final = 10
_NORM_EPSILON: Final = 1e-5

Weights = dict[str, NDArray[np.float32]]
Tensor = tuple[Any, list[int | str]]
"""Element type and shape."""
Tensors = dict[str, Tensor]


class Graph:
    """Collects nodes and constants, among them the weights that are used; every method returns the name of a tensor."""

    def __init__(self, weights: Weights | None = None) -> None:
        self.helper: Any = importlib.import_module("onnx.helper")
        self.numpy_helper: Any = importlib.import_module("onnx.numpy_helper")
        self._weights = weights or {}
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

    def parts(self, tensor: str, count: int, axis: int) -> list[str]:
        name = self._name("part")
        return self.ops("Split", [tensor], [f"{name}_{n}" for n in range(count)], axis=axis, num_outputs=count)

    def cast(self, tensor: str, kind: Any) -> str:
        name = self._name("Cast")
        self.nodes.append(self.helper.make_node("Cast", [tensor], [name], name=name, to=kind))
        return name

    def norm(self, x: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.scale"), self.weight(f"{name}.bias")
        return self.op("LayerNormalization", x, scale, bias, epsilon=_NORM_EPSILON)

    def linear(self, x: str, name: str) -> str:
        return self.op("Gemm", x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"))

    def model(self, name: str, inputs: Tensors, outputs: Tensors) -> bytes:
        def info(tensors: Tensors) -> list[Any]:
            return [self.helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in tensors.items()]

        whole = self.helper.make_graph(self.nodes, name, info(inputs), info(outputs), self.constants)
        opset = self.helper.make_opsetid("", OPSET)
        made = self.helper.make_model(whole, opset_imports=[opset], ir_version=IR_VERSION, producer_name="headwater")
        importlib.import_module("onnx.checker").check_model(made, full_check=True)
        return bytes(made.SerializeToString())

    def _name(self, kind: str) -> str:
        return f"{kind.lower()}_{len(self.nodes)}"

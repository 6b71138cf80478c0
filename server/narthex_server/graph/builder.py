"""Builds one ONNX graph, a node at a time; weights are converted when the graph is written, one by one."""

from collections.abc import Callable, Hashable, Sequence
from enum import Enum
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from narthex_server.errors import InvalidModelFile

MICROSOFT = "com.microsoft"
_OPSETS = {"": 21, MICROSOFT: 1}

Attribute = int | float | str | Sequence[int] | Sequence[float]
Extent = int | str


class Compute(Enum):
    """FLOAT32 multiplies dequantised weights exactly; BLOCK8 multiplies quantised blocks with int8 activations.

    INT8 rounds whole channels to int8: less exact than either, faster from a few tokens up. FLOAT16 and BFLOAT16 hold
    activations and weights in that type, and quantised blocks as they are.
    """

    FLOAT32 = "float32"
    BLOCK8 = "block8"
    INT8 = "int8"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    @property
    def dtype(self) -> ir.DataType:
        """The type of every real number in a graph."""
        return _HALVES.get(self.value, ir.DataType.FLOAT)


_HALVES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}


class GraphBuilder:
    """Collects inputs, nodes and weights, then writes the model; `compute` says how linear layers multiply."""

    def __init__(self, name: str, compute: Compute) -> None:
        self.compute = compute
        self.dtype = compute.dtype
        self._name = name
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._weights: dict[str, ir.Value] = {}
        self._shared: dict[Hashable, ir.Value] = {}
        self._notes: dict[str, str] = {}

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[Extent]) -> ir.Value:
        """Declare an input; a named extent may differ from run to run."""
        value = ir.val(name, dtype, shape)
        self._inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[Extent]) -> None:
        """Declare an output."""
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(shape)
        self._outputs.append(value)

    def found(self, name: str) -> ir.Value:
        """The output of this name."""
        return next(value for value in self._outputs if value.name == name)

    def op(self, kind: str, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute) -> ir.Value:
        """Add a node with one output and return that."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, *inputs: ir.Value | None, outputs: int, domain: str = "", **attributes: Attribute
    ) -> Sequence[ir.Value]:
        """Add a node and return its outputs."""
        node = ir.node(kind, inputs, attributes, domain=domain, num_outputs=outputs)
        node.name = f"{kind}_{len(self._nodes)}"
        for index, value in enumerate(node.outputs):
            value.name = f"{node.name}.{index}"
        self._nodes.append(node)
        return node.outputs

    def split(self, x: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
        """Cut x along its last axis."""
        parts = self.constant("split." + ".".join(map(str, sizes)), np.array(sizes, np.int64))
        return self.ops("Split", x, parts, outputs=len(sizes), axis=-1)

    def constant(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        """Add a small constant; the same name is the same constant."""
        return self.weight(name, array.dtype, array.shape, lambda: array)

    def unnamed(self, prefix: str, array: NDArray[np.generic]) -> ir.Value:
        """Add a constant under a name of its own that begins with `prefix`."""
        return self.constant(f"{prefix}.{len(self._weights)}", array)

    def note(self, key: str, value: str) -> None:
        """Write a fact about the graph into it, for whoever runs it."""
        self._notes[key] = value

    def weight(
        self,
        name: str,
        dtype: np.dtype[np.generic] | type[np.generic],
        shape: Sequence[int],
        make: Callable[[], NDArray[np.generic]],
    ) -> ir.Value:
        """Add a weight that `make` yields when it is written; the same name is the same weight.

        float32 stands for the type that the graph computes in. Errors: InvalidModelFile for values that do not fit it.
        """
        if (known := self._weights.get(name)) is not None:
            return known
        kind = ir.DataType.from_numpy(np.dtype(dtype))
        kind = self.dtype if kind == ir.DataType.FLOAT else kind
        tensor = ir.LazyTensor(
            lambda: ir.Tensor(_fitted(make(), kind, name), name=name), kind, ir.Shape(shape), name=name
        )
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind), const_value=tensor)
        self._weights[name] = value
        return value

    def shared(self, key: Hashable, make: Callable[[], ir.Value]) -> ir.Value:
        """Return what `make` built the first time that it was asked for under this key."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def as_float32(self, value: ir.Value) -> ir.Value:
        """The value in float32, whatever the graph computes in."""
        return value if self.dtype == ir.DataType.FLOAT else self.op("Cast", value, to=int(ir.DataType.FLOAT))

    @property
    def kinds(self) -> frozenset[str]:
        """The operators that the graph has."""
        return frozenset(node.op_type for node in self._nodes)

    def save(self, path: Path, weights: str) -> None:
        """Write the graph to `path`, its weights to the file `weights` beside it: one protobuf is limited to 2 GiB."""
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=list(self._weights.values()),
            opset_imports=_OPSETS,
            name=self._name,
        )
        model = ir.Model(graph, ir_version=10, producer_name="narthex", metadata_props=self._notes)
        RemoveUnusedNodesPass()(model)
        ir.save(model, path, external_data=weights)


def _fitted(array: NDArray[np.generic], kind: ir.DataType, name: str) -> NDArray[np.generic]:
    """The values in another type."""
    if array.dtype == kind.numpy():
        return array
    with np.errstate(over="ignore"):
        fitted = array.astype(kind.numpy())
    if not np.isfinite(fitted).all() and np.isfinite(array).all():
        largest = np.abs(array).max()
        raise InvalidModelFile(f"{name} has values up to {largest:.4g}, too large for {kind.name.lower()}")
    return fitted

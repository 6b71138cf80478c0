"""The residual stream that the layers of a transformer read and add to."""

import onnx_ir as ir

from narthex_server.graph.builder import GraphBuilder
from narthex_server.graph.norm import add_rms_norm, rms_norm
from narthex_server.weights.tensors import StoredTensor


class Residual:
    """A stream of hidden states; an addition waits for the norm that follows it, so that both are one operator."""

    def __init__(self, graph: GraphBuilder, start: ir.Value) -> None:
        self._graph = graph
        self._value = start
        self._pending: ir.Value | None = None

    def add(self, branch: ir.Value) -> None:
        """Add what a layer computed."""
        self._settle()
        self._pending = branch

    def normal(self, weight: StoredTensor, epsilon: float) -> ir.Value:
        """Return the stream, RMS-normalised; the stream itself stays as it is."""
        if self._pending is None:
            return rms_norm(self._graph, self._value, weight, epsilon)
        pending, self._pending = self._pending, None
        normal, self._value = add_rms_norm(self._graph, pending, self._value, weight, epsilon)
        return normal

    def value(self) -> ir.Value:
        """Return the stream with everything that was added."""
        self._settle()
        return self._value

    def _settle(self) -> None:
        if self._pending is not None:
            self._value = self._graph.op("Add", self._pending, self._value)
            self._pending = None

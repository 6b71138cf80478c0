"""Weights whose way into a graph is told."""

from collections.abc import Iterable
from dataclasses import replace

from narthex_server.progress import Progress, Stage
from narthex_server.weights.formats import Bytes
from narthex_server.weights.tensors import StoredTensor, WeightSource


class HeardWeights:
    """Another source's weights; taking their bytes counts as progress of the building."""

    def __init__(self, source: WeightSource, progress: Progress) -> None:
        self._source = source
        self._progress = progress
        self._total = max(sum(found.nbytes for name in source.names() if (found := source.find(name))), 1)
        self._taken: dict[str, int] = {}

    def names(self) -> Iterable[str]:
        return self._source.names()

    def find(self, name: str) -> StoredTensor | None:
        tensor = self._source.find(name)
        return tensor and replace(tensor, stored=lambda: self._take(tensor))

    def _take(self, tensor: StoredTensor) -> Bytes:
        self._taken[tensor.name] = tensor.nbytes
        self._progress(Stage.BUILD, min(sum(self._taken.values()) / self._total, 1.0))
        return tensor.raw

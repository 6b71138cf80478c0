"""Decoders that were saved without their head."""

from collections.abc import Iterable

from narthex_server.weights.tensors import StoredTensor, WeightSource

_BODY = "model."


class Headless:
    """Weights whose names may lack the `model.` that sets a decoder's body apart from its head."""

    def __init__(self, weights: WeightSource) -> None:
        self._weights = weights

    def names(self) -> Iterable[str]:
        return self._weights.names()

    def find(self, name: str) -> StoredTensor | None:
        return self._weights.find(name) or self._weights.find(name.removeprefix(_BODY))

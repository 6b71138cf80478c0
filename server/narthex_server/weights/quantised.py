"""Weights that are quantised when they are loaded."""

import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from narthex_server.errors import InvalidRequest
from narthex_server.weights.encoding import encode
from narthex_server.weights.formats import BlockFormat, Bytes
from narthex_server.weights.latest import Latest
from narthex_server.weights.scheme import Scheme, summary, unused
from narthex_server.weights.tensors import StoredTensor, WeightSource

_log = logging.getLogger(__name__)
_SLICE = 1 << 19
"""Values that one thread converts to float32 and encodes at a time."""


class QuantisedWeights:
    """Another source's weights in the formats of a scheme; each is encoded when its bytes are asked for."""

    def __init__(self, source: WeightSource, scheme: Scheme) -> None:
        """Decide for every tensor and log that; InvalidRequest where one is quantised already."""
        self._source = source
        self._latest = Latest()
        choices = {}
        for name in source.names():
            if (tensor := source.find(name)) is not None:
                if tensor.format.packing is not None:
                    raise InvalidRequest(
                        f"tensor {name} is quantised already, as {tensor.format.name}; quantising it again would lose "
                        "twice. Load the model as it is, or quantise its original weights",
                        reason="QUANTISED_ALREADY",
                    )
                choices[name] = scheme.choose(tensor)
        self._choices = choices
        _log.info("quantising: %s", summary(choices))
        for key in unused(scheme.topology, choices):
            _log.warning("topology entry %s fits no tensor of this model", key)

    def names(self) -> Iterable[str]:
        return self._source.names()

    def find(self, name: str) -> StoredTensor | None:
        tensor = self._source.find(name)
        if tensor is None or (stored := self._choices[name].format) is None:
            return tensor
        return replace(tensor, format=stored, stored=lambda: self._latest.get(name, lambda: quantised(tensor, stored)))


def quantised(tensor: StoredTensor, stored: BlockFormat) -> Bytes:
    """Encode a tensor, uint8 [rows, bytes of a row], on all cores and without its float32 in memory as a whole."""
    raw = tensor.raw
    columns = tensor.shape[-1]
    step = max(_SLICE // max(columns, 1), 1)
    out = np.empty((len(raw), columns // stored.block * stored.bytes), np.uint8)

    def work(start: int) -> None:
        rows = slice(start, start + step)
        out[rows] = encode(tensor.name, tensor.format.dense(raw[rows]), stored)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(work, range(0, len(raw), step)):
            pass
    return out

"""Fixed additions to the logits of single tokens."""

import numpy as np
from numpy.typing import NDArray

from narthex_server.engine.decoder import Logits


class LogitBias:
    """Adds to each named token's logit."""

    __slots__ = ("_bias", "_ids")

    def __init__(self, bias: tuple[tuple[int, float], ...]) -> None:
        self._ids = np.array([token for token, _ in bias], np.int64)
        self._bias = np.array([value for _, value in bias], np.float32)

    def apply(self, logits: Logits, tokens: NDArray[np.int64]) -> None:
        logits[self._ids] += self._bias

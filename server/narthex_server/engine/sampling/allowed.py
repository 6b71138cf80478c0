"""A fixed choice of tokens."""

import numpy as np
from numpy.typing import NDArray

from narthex_server.engine.decoder import Logits


class AllowedTokens:
    """Rules out all tokens but the named ones."""

    __slots__ = ("_ids",)

    def __init__(self, ids: tuple[int, ...]) -> None:
        self._ids = np.unique(np.array(ids, np.int64))

    def apply(self, logits: Logits, tokens: NDArray[np.int64]) -> None:
        kept = logits[self._ids]
        logits.fill(-np.inf)
        logits[self._ids] = kept

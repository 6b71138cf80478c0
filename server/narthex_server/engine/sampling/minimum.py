"""A completion's least length."""

import numpy as np

from narthex_server.engine.decoder import Logits
from narthex_server.engine.request import EngineRequest


class MinimumLength:
    """Rules out a request's stop tokens until it has so many tokens, unless nothing else may come."""

    __slots__ = ("_stops", "_until")

    def __init__(self, request: EngineRequest) -> None:
        self._until = len(request.prompt) + request.min_tokens
        self._stops = np.array(sorted(request.stop_ids), np.int64)

    def mask(self, logits: Logits, length: int) -> None:
        """Change logits [vocab] in place, for the token after `length` tokens of prompt and completion."""
        if length >= self._until:
            return
        stops = self._stops[self._stops < len(logits)]
        kept = logits[stops]
        logits[stops] = -np.inf
        if np.isneginf(logits.max()):
            logits[stops] = kept

"""Penalties on tokens that have occurred."""

import numpy as np
from numpy.typing import NDArray

from narthex_server.engine.decoder import Logits
from narthex_server.engine.request import Sampling


class Penalties:
    """Repetition first, over prompt and completion, then frequency and presence, over the completion alone.

    Keeps the distinct tokens with their counts, so that a step costs only as much as there are of them.
    """

    __slots__ = ("_counts", "_ids", "_length", "_places", "_prompt", "_sampling", "_seen")

    def __init__(self, sampling: Sampling, prompt: int) -> None:
        self._sampling = sampling
        self._prompt = prompt
        self._seen = self._length = 0
        self._places: dict[int, int] = {}
        self._ids = np.empty(64, np.int64)
        self._counts = np.zeros(64, np.float32)

    def apply(self, logits: Logits, tokens: NDArray[np.int64]) -> None:
        if self._sampling.repetition_penalty == 1:
            self._seen = max(self._seen, self._prompt)
        for at, token in enumerate(tokens[self._seen :].tolist(), start=self._seen):
            self._count(token, 1.0 if at >= self._prompt else 0.0)
        self._seen = len(tokens)
        ids, counts = self._ids[: self._length], self._counts[: self._length]
        values = logits[ids]
        if (repetition := np.float32(self._sampling.repetition_penalty)) != 1:
            values = np.where(values > 0, values / repetition, values * repetition)
        if (frequency := self._sampling.frequency_penalty) != 0:
            values -= np.float32(frequency) * counts
        if (presence := self._sampling.presence_penalty) != 0:
            values -= np.float32(presence) * (counts > 0)
        logits[ids] = values

    def _count(self, token: int, times: float) -> None:
        place = self._places.setdefault(token, self._length)
        if place == self._length:
            if self._length == len(self._ids):
                self._ids = np.concatenate((self._ids, np.empty_like(self._ids)))
                self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            self._ids[place] = token
            self._length += 1
        self._counts[place] += times

"""How probable tokens were in the model's own distribution, before anything changed its logits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narthex_server.engine.decoder import Logits
from narthex_server.engine.sampling.largest import largest

MOST_CANDIDATES = 20


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token, the natural logarithm of its probability, and how many are more probable, plus one."""

    token: int
    logprob: float
    rank: int


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """The token at a position, and the most probable ones there, best first."""

    chosen: Logprob
    candidates: tuple[Logprob, ...] = ()


class Distribution:
    """The model's own probabilities at one position, by its logits [vocab], which stay as they are meanwhile."""

    __slots__ = ("_log_total", "_logits", "_top")

    def __init__(self, logits: Logits) -> None:
        self._logits = logits
        self._top = float(logits.max())
        with np.errstate(under="ignore", invalid="ignore"):
            self._log_total = float(np.log(np.exp(self._logits - np.float32(self._top)).sum(dtype=np.float64)))

    def position(self, token: int, candidates: int) -> PositionLogprobs:
        """The token that was chosen, and so many of the most probable ones."""
        return PositionLogprobs(self._scored(token), self._best(candidates))

    def _scored(self, token: int) -> Logprob:
        better = int(np.count_nonzero(self._logits > self._logits[token]))
        return Logprob(token, self._logprob(float(self._logits[token])), better + 1)

    def _best(self, count: int) -> tuple[Logprob, ...]:
        if count == 0:
            return ()
        ids = largest(self._logits, min(count, len(self._logits)))
        ids = ids[np.argsort(-self._logits[ids], kind="stable")]
        values = self._logits[ids].tolist()
        # Equal ones share the rank of the first of them.
        return tuple(
            Logprob(token, self._logprob(value), values.index(value) + 1)
            for token, value in zip(ids.tolist(), values, strict=True)
        )

    def _logprob(self, logit: float) -> float:
        return min(logit - self._top - self._log_total, 0.0)


class ScoredPrompt:
    """A prompt whose tokens are scored as it is computed, each of them once however often it is computed."""

    __slots__ = ("_candidates", "_done", "_new", "_prompt")

    def __init__(self, prompt: tuple[int, ...], candidates: int) -> None:
        self._prompt = prompt
        self._candidates = candidates
        self._done = 1  # nothing says how probable the first is
        self._new: list[PositionLogprobs] = []

    @property
    def complete(self) -> bool:
        return self._done == len(self._prompt)

    def rows(self, past: int, size: int) -> NDArray[np.int64]:
        """Which of `size` tokens after the first `past` say how probable a token is that was not scored yet."""
        return np.arange(max(self._done - 1 - past, 0), min(len(self._prompt) - 1 - past, size))

    def add(self, logits: Logits) -> None:
        """Scores the next token by the logits [vocab] before it."""
        self._new.append(Distribution(logits).position(self._prompt[self._done], self._candidates))
        self._done += 1

    def take(self) -> list[PositionLogprobs]:
        """What was scored since the last time."""
        new, self._new = self._new, []
        return new

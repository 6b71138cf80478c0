"""What crosses between the event loop and the engine thread; everything here is picklable."""

import math
from dataclasses import dataclass
from enum import Enum

from narthex_server.engine.grammar import Grammar
from narthex_server.errors import Violation


class FinishReason(Enum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; temperature 0 is greedy, top_k 0 and top_p 1 and min_p 0 are off.

    `seed` None draws one; a seed gives the same tokens whatever else is in the batch.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None

    def validate(self, prefix: str = "sampling") -> tuple[Violation, ...]:
        """The fields that are not finite or out of range, as paths below `prefix`; empty when all is well."""
        fits = {
            "temperature": (self.temperature, 0 <= self.temperature <= 100, "must be between 0 (greedy) and 100"),
            "top_k": (self.top_k, 0 <= self.top_k < 2**31, "must be 0 (off) or a number of tokens"),
            "top_p": (self.top_p, 0 < self.top_p <= 1, "must be above 0 and at most 1 (off)"),
            "min_p": (self.min_p, 0 <= self.min_p <= 1, "must be between 0 (off) and 1"),
            "seed": (self.seed or 0, 0 <= (self.seed or 0) < 2**64, "must be an unsigned 64-bit integer"),
        }
        return tuple(
            Violation(f"{prefix}.{name}", f"{rule}, got {value}")
            for name, (value, fit, rule) in fits.items()
            if not (fit and math.isfinite(value))
        )


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """A loaded adapter, and what its effect is multiplied by."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One prompt to continue by at most `max_tokens` tokens, or up to any of `stop_ids`, which is not yielded."""

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    sampling: Sampling = Sampling()
    adapters: tuple[AdapterUse, ...] = ()
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """New tokens of a request, oldest first; several when the reader lags."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `cached_tokens` of the prompt were not computed again, a stop token is not counted.

    `speculated_tokens` were guessed, of which `accepted_tokens` were right.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    speculated_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a request; `stop_id` is the stop token that ended it."""

    reason: FinishReason
    usage: Usage
    stop_id: int | None = None


EngineEvent = Tokens | Finished

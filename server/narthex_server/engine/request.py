"""What crosses between the event loop and the engine thread; everything here is picklable."""

from dataclasses import dataclass
from enum import Enum


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


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One prompt to continue: at most `max_tokens` tokens, ended earlier by any of `stop_ids`, which is itself not yielded."""

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    sampling: Sampling = Sampling()


@dataclass(frozen=True, slots=True)
class Tokens:
    """New tokens of a request, oldest first; several when the reader lags."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `cached_tokens` of the prompt were not computed again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event of a request; `stop_id` is the stop token that ended it."""

    reason: FinishReason
    usage: Usage
    stop_id: int | None = None


EngineEvent = Tokens | Finished

"""What crosses between the event loop and the engine thread; everything here is picklable."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from itertools import islice

from narthex_server.engine.grammar import Grammar
from narthex_server.engine.sampling.logprobs import MOST_CANDIDATES, PositionLogprobs
from narthex_server.errors import Violation

MOST_NAMED = 16
"""Biases at fault that are named one by one: a caller may send a million."""


class Urgency(IntEnum):
    """Whose turn it is where there are more requests than slots; see engine/line.py and Scheduler.make_way."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


class FinishReason(Enum):
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Dry:
    """What repeating a sequence costs: multiplier * base^(n - allowed_length) for the token after n repeated ones.

    It looks `window` tokens back (0 is all of them); no sequence reaches across one of `breakers`.
    """

    multiplier: float = 0.8
    base: float = 1.75
    allowed_length: int = 2
    window: int = 0
    breakers: frozenset[int] = frozenset()

    def validate(self, prefix: str = "sampling.dry") -> tuple[Violation, ...]:
        """The fields that are not finite or out of range, as paths below `prefix`."""
        return _violations(
            prefix,
            {
                "multiplier": (self.multiplier, 0 <= self.multiplier <= 1e6, "must be between 0 (off) and 1e6"),
                "base": (self.base, 1 <= self.base <= 1e6, "must be between 1 and 1e6"),
                "allowed_length": (self.allowed_length, 0 <= self.allowed_length < 2**32, "must be a number of tokens"),
                "window": (self.window, 0 <= self.window < 2**32, "must be 0 (all) or a number of tokens"),
            },
        )


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn; temperature 0 is greedy, top_k 0 and top_p 1 and min_p 0 are off.

    Frequency and presence penalties (0 is off) count the completion, the repetition penalty (1 is off) the prompt too.
    `logit_bias` is added by token id; an empty `allowed_token_ids` allows all.
    `seed` None draws one; a seed gives the same tokens whatever else is in the batch.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    dry: Dry | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()

    def validate(self, prefix: str = "sampling") -> tuple[Violation, ...]:
        """The fields that are not finite or out of range, as paths below `prefix`; empty when all is well."""
        frequency, presence, repetition = self.frequency_penalty, self.presence_penalty, self.repetition_penalty
        found = _violations(
            prefix,
            {
                "temperature": (self.temperature, 0 <= self.temperature <= 100, "must be between 0 (greedy) and 100"),
                "top_k": (self.top_k, 0 <= self.top_k < 2**32, "must be 0 (off) or a number of tokens"),
                "top_p": (self.top_p, 0 < self.top_p <= 1, "must be above 0 and at most 1 (off)"),
                "min_p": (self.min_p, 0 <= self.min_p <= 1, "must be between 0 (off) and 1"),
                "seed": (self.seed or 0, 0 <= (self.seed or 0) < 2**64, "must be an unsigned 64-bit integer"),
                "frequency_penalty": (frequency, -2 <= frequency <= 2, "must be between -2 and 2"),
                "presence_penalty": (presence, -2 <= presence <= 2, "must be between -2 and 2"),
                "repetition_penalty": (repetition, 0.01 <= repetition <= 100, "must be between 0.01 and 100"),
            },
        )
        biased = (
            Violation(f"{prefix}.logit_bias[{token}]", f"must be between -100 and 100, got {bias}")
            for token, bias in self.logit_bias
            if not -100 <= bias <= 100
        )
        return (*found, *islice(biased, MOST_NAMED), *(self.dry.validate(f"{prefix}.dry") if self.dry else ()))

    def outside(self, vocab_size: int, prefix: str = "sampling") -> tuple[Violation, ...]:
        """The fields with token ids that a model of this vocabulary does not have, as paths below `prefix`."""
        named = {"logit_bias": [token for token, _ in self.logit_bias], "allowed_token_ids": self.allowed_token_ids}
        return tuple(
            Violation(f"{prefix}.{name}", f"token ids must be between 0 and {vocab_size - 1}")
            for name, ids in named.items()
            if ids and not 0 <= min(ids) <= max(ids) < vocab_size
        )


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """A loaded adapter, and what its effect is multiplied by."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One prompt to continue by at most `max_tokens` tokens, or up to any of `stop_ids`, which is not yielded.

    A stop id comes before `min_tokens` only where nothing else may. `logprobs` and `prompt_logprobs` ask for the
    probabilities of the completion's and the prompt's tokens, with so many candidates each; None is none.
    Requests of one id differ in `index`, and end together where that id is aborted.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_tokens: int
    stop_ids: frozenset[int] = frozenset()
    sampling: Sampling = Sampling()
    adapters: tuple[AdapterUse, ...] = ()
    grammar: Grammar | None = None
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    index: int = 0
    urgency: Urgency = Urgency.NORMAL

    def validate(self, vocab_size: int) -> tuple[Violation, ...]:
        """The fields out of range for a model of this vocabulary."""
        found = [*self.sampling.validate(), *self.sampling.outside(vocab_size)]
        if not self.prompt:
            found.append(Violation("prompt", "must have at least one token"))
        elif min(self.prompt) < 0 or max(self.prompt) >= vocab_size:
            found.append(Violation("prompt", f"token ids must be between 0 and {vocab_size - 1}"))
        if self.max_tokens < 1:
            found.append(Violation("max_tokens", f"must be at least 1, got {self.max_tokens}"))
        for name, count in (("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if count is not None and not 0 <= count <= MOST_CANDIDATES:
                found.append(Violation(name, f"must be between 0 and {MOST_CANDIDATES}, got {count}"))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class PromptScores:
    """The next of a prompt's tokens, from its second one on; all come before the first `Tokens`."""

    logprobs: tuple[PositionLogprobs, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """New tokens of a request, oldest first; several when the reader lags. `logprobs`: one each, where asked for."""

    ids: tuple[int, ...]
    logprobs: tuple[PositionLogprobs, ...] = ()


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


EngineEvent = PromptScores | Tokens | Finished


def _violations(prefix: str, fits: Mapping[str, tuple[float, bool, str]]) -> tuple[Violation, ...]:
    """Those of the values, each with whether it fits and the rule, that do not or are not finite."""
    return tuple(
        Violation(f"{prefix}.{name}", f"{rule}, got {value}")
        for name, (value, fit, rule) in fits.items()
        if not (fit and math.isfinite(value))
    )

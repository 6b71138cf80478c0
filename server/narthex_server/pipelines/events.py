"""What a text pipeline yields."""

from dataclasses import dataclass
from enum import Enum

from narthex_server.text.messages import ToolCall


class FinishReason(Enum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    TOOL_ROUNDS = "max_tool_rounds"
    CANCELLED = "cancelled"
    BUDGET = "budget"
    REPETITION = "repetition"


class Budget(Enum):
    """What a run of tools may use up."""

    SECONDS = "max_seconds"
    GENERATED_TOKENS = "max_generated_tokens"
    TOTAL_TOKENS = "max_total_tokens"
    TOOL_CALLS = "max_tool_calls"
    RESULT_BYTES = "max_result_bytes"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; over several rounds they add up. A stop token is not counted.

    `reasoning_tokens` are those of the completion up to the end of the model's thoughts; `speculated_tokens` were
    guessed, of which `accepted_tokens` were right.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    speculated_tokens: int = 0
    accepted_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.speculated_tokens + other.speculated_tokens,
            self.accepted_tokens + other.accepted_tokens,
        )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its bytes, the natural logarithm of its probability, and its place among all, from 1."""

    token: int
    data: bytes
    logprob: float
    rank: int


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """The token at a position, and the most probable ones there, best first."""

    chosen: TokenLogprob
    candidates: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt is accepted; these are its tokens as the model sees them.

    `logprobs`, if asked for, are those of all but the first.
    """

    prompt_ids: tuple[int, ...]
    logprobs: tuple[PositionLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """New text, whole characters; `token_ids` are the tokens that came since the last delta.

    `logprobs`, if asked for, has one for each of them.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """New text of what the model thinks before it speaks."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """The model has begun to write a call of one of the tools; its ToolCall has the same id."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event; `stop_string` or `stop_token_id` is what ended it, if the caller asked for that one.

    `token_ids` are all tokens of the turn, `logprobs` theirs if asked for. `budget` is the one that is used up.
    """

    reason: FinishReason
    usage: Usage
    stop_string: str | None = None
    stop_token_id: int | None = None
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] = ()
    budget: Budget | None = None


GenerateEvent = Started | TextDelta | Finished
ChatEvent = Started | TextDelta | ReasoningDelta | ToolCallStarted | ToolCall | Finished

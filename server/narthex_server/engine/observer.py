"""What the engine tells about itself: a snapshot on request, and reports to an observer."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class EngineStats:
    """The engine after its last step; sizes in tokens, counters since the start."""

    slots: int
    running: int = 0
    waiting: int = 0
    kept: int = 0
    """Idle slots whose tokens are kept for reuse."""
    kv_tokens_used: int = 0
    """Cached tokens of running requests."""
    kv_tokens_kept: int = 0
    """Cached tokens of idle slots; given up whenever a request needs the slot."""
    kv_tokens_capacity: int = 0
    """What all slots may have cached together."""
    steps: int = 0
    prompt_tokens: int = 0
    """Prompt tokens of admitted requests, cached ones included."""
    cached_tokens: int = 0
    """Prompt tokens found in the cache; over `prompt_tokens` this is the hit ratio of prefix reuse."""
    generated_tokens: int = 0
    dead_rows: int = 0
    """Rows computed only because they lay between active ones."""
    moves: int = 0
    """Copies made to close such gaps."""
    preemptions: int = 0
    """Requests that were sent back to the line because the others had outgrown the capacity."""
    drafts: int = 0
    draft_tokens: int = 0
    """Tokens guessed in those drafts."""
    accepted_tokens: int = 0
    """Those of the guessed ones that were right."""
    adapters: int = 0
    """Loaded adapters."""
    adapted_tokens: int = 0
    """Generated tokens of requests that use an adapter."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step: `rows` sequences decoded and `prefill_tokens` prompt tokens computed in `seconds`."""

    rows: int
    prefill_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RequestReport:
    """A request that ended, in seconds; `queue` and `first_token` are None if it never got that far.

    `reason` is a FinishReason's value or `error`; `first_token` and `total` count from submission.
    """

    request_id: str
    reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queue: float | None
    first_token: float | None
    gaps: tuple[float, ...]
    total: float


class EngineObserver(Protocol):
    """Called on the event loop; must be quick and must not raise."""

    def on_step(self, report: StepReport) -> None: ...

    def on_finished(self, report: RequestReport) -> None: ...

"""The engine's knobs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """`prefill_tokens`: prompt tokens computed in one step at most; `max_waiting`: requests queued beyond the slots.

    While streams run, a step computes only as many prompt tokens as take about `prefill_seconds`, for that delays each
    stream's next token.
    """

    prefill_tokens: int = 256
    max_waiting: int = 64
    prefill_seconds: float = 0.1

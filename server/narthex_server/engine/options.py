"""The engine's knobs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """`prefill_tokens`: prompt tokens computed in one step at most; `max_waiting`: requests queued beyond the slots."""

    prefill_tokens: int = 256
    max_waiting: int = 64

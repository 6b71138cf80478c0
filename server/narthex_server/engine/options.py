"""The engine's knobs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """`prefill_tokens`: prompt tokens computed in one step at most; `max_waiting`: requests queued beyond the slots.

    `kv_tokens`: tokens that all slots may have cached together; None is as many as they can hold. `speculate`: guess
    tokens where that makes streams faster. `longest_pause`: seconds that a part of a prompt may take beside running
    streams in any case, also where their steps are so short that two of them take less.
    """

    prefill_tokens: int = 256
    max_waiting: int = 64
    kv_tokens: int | None = None
    speculate: bool = True
    longest_pause: float = 0.04

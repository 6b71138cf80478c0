"""Counting of requests, by the generic cell rate algorithm: a whole allowance at once, then evenly."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from narthex.rates import Rate
from throttled.asyncio import BaseRateLimiter, BaseStore, MemoryStore, RateLimiterRegistry, per_duration

MOST_HELD = 100_000
"""Counts in memory; the one that was not used for longest makes room, as it has most likely recovered."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a limit: `reset_s` until it is whole again, `retry_s` above 0 where this request is too many."""

    limit: int
    remaining: int
    reset_s: float
    retry_s: float


class Limiter(Protocol):
    """The counts of one kind of client."""

    async def take(self, who: str, rate: Rate) -> Allowance: ...

    async def close(self) -> None: ...


class StoreLimiter:
    """Counts in a store; the counts of different rates are apart."""

    def __init__(self, store: BaseStore, kind: str) -> None:
        self._store = store
        self._kind = kind
        self._by_rate: dict[Rate, BaseRateLimiter] = {}  # as many as settings and key file name

    async def take(self, who: str, rate: Rate) -> Allowance:
        limiter = self._by_rate.get(rate)
        if limiter is None:
            quota = per_duration(timedelta(seconds=rate.seconds), rate.count)
            made = RateLimiterRegistry.get("gcra")
            prefix = f"narthex:{self._kind}:{rate.count}:{rate.seconds}"
            limiter = self._by_rate[rate] = made(quota, self._store, key_prefix=prefix)
        state = (await limiter.limit(who)).state
        return Allowance(state.limit, state.remaining, state.reset_after, state.retry_after)

    async def close(self) -> None:
        """Nothing: memory goes with its process."""


def in_memory(kind: str) -> StoreLimiter:
    """A limiter of this process alone."""
    return StoreLimiter(MemoryStore(options={"MAX_SIZE": MOST_HELD}), kind)

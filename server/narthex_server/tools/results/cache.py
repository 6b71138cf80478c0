"""Results that are kept for a while."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from narthex_server.tools.tool import ToolResult

OVERHEAD = 1024
"""Bytes of an entry beside its result, roughly."""

LARGEST_SHARE = 8
"""A result that would take more than this part of all bytes is not kept."""

Reason = Literal["expired", "space"]


@dataclass(frozen=True, slots=True)
class CacheLimits:
    max_bytes: int = 64 * 1024 * 1024
    max_entries: int = 10_000


@dataclass(frozen=True, slots=True)
class _Entry:
    result: ToolResult
    end: float

    @property
    def size(self) -> int:
        return self.result.size + OVERHEAD


class ResultCache:
    """Results by key, each until its time is over; where room is wanted, those go that were not asked for longest."""

    def __init__(
        self,
        limits: CacheLimits = CacheLimits(),
        evicted: Callable[[Reason], None] = lambda reason: None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._limits = limits
        self._evicted = evicted
        self._clock = clock
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()  # the one asked for last at the end
        self._bytes = 0

    @property
    def bytes(self) -> int:
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> ToolResult | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.end <= self._clock():
            self._drop(key, "expired")
            return None
        self._entries.move_to_end(key)
        return entry.result

    def put(self, key: Hashable, result: ToolResult, ttl: float) -> None:
        """Keeps it for `ttl` seconds from now, unless it is too large to be kept beside others."""
        now = self._clock()
        entry = _Entry(result, now + ttl)
        if (before := self._entries.pop(key, None)) is not None:
            self._bytes -= before.size
        if entry.size > self._limits.max_bytes // LARGEST_SHARE:
            return
        while self._entries and (
            (oldest := next(iter(self._entries.items())))[1].end <= now
            or len(self._entries) >= self._limits.max_entries
            or self._bytes + entry.size > self._limits.max_bytes
        ):
            self._drop(oldest[0], "expired" if oldest[1].end <= now else "space")
        self._entries[key] = entry
        self._bytes += entry.size

    def _drop(self, key: Hashable, reason: Reason) -> None:
        self._bytes -= self._entries.pop(key).size
        self._evicted(reason)

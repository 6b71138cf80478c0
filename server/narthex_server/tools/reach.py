"""Which narthex servers can be reached from here, so that none forwards to itself."""

import re
from collections.abc import Iterable
from contextvars import ContextVar
from uuid import uuid4

MOST_HOPS = 8
"""Servers that a call may pass before this one."""

INSTANCE = re.compile(r"[0-9a-f]{32}")

VIA_HEADER = "x-narthex-via"
"""The metadata in which servers tell each other of them."""

VIA: ContextVar[tuple[str, ...]] = ContextVar("via", default=())
"""The servers that the running call has passed, by their ids, the first one first; set by an interceptor."""


class Reach:
    """This server, and those behind its upstreams, by the ids that servers give themselves when they start."""

    def __init__(self) -> None:
        self.instance = uuid4().hex
        self._behind: dict[str, frozenset[str]] = {}

    @property
    def instances(self) -> tuple[str, ...]:
        """This server first."""
        return self.instance, *sorted(frozenset[str]().union(*self._behind.values()))

    def extend(self, upstream: str, instances: Iterable[str]) -> bool:
        """Notes what is behind an upstream; False, and nothing is noted, where this server itself is."""
        found = frozenset(instances)
        if self.instance in found:
            self.shrink(upstream)
            return False
        self._behind[upstream] = found
        return True

    def shrink(self, upstream: str) -> None:
        """Nothing is behind the upstream now."""
        self._behind.pop(upstream, None)

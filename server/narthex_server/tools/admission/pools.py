"""The pools of the upstreams."""

from collections.abc import Callable

from narthex_server.lot.limits import Limits
from narthex_server.lot.lot import Lot
from narthex_server.lot.pool import Pool
from narthex_server.tools.upstream.source import ServerSource

CALLS, MEMORY = "calls", "memory"


class UpstreamPools:
    """A pool for each upstream, which comes and goes with it."""

    def __init__(self, lot: Lot, limits: Limits, memory: int, calls: Callable[[ServerSource], int]) -> None:
        """`calls` says how many an upstream works on at once, `memory` how many bytes of arguments those may have."""
        self._lot = lot
        self._limits = limits
        self._memory = memory
        self._calls = calls
        self._pools: dict[str, Pool] = {}

    def get(self, upstream: str) -> Pool | None:
        """None for one that is not there."""
        return self._pools.get(upstream)

    def open(self, source: ServerSource) -> None:
        """It is there from now on, or is another one than before under the same name, whose calls go on."""
        capacity = {CALLS: self._calls(source), MEMORY: self._memory}
        self._pools[source.name] = self._lot.open(pool_of(source.name), capacity, self._limits)

    def close(self, upstream: str) -> None:
        """It is gone: calls that wait for it are turned away."""
        if self._pools.pop(upstream, None) is not None:
            self._lot.close(pool_of(upstream))


def pool_of(upstream: str) -> str:
    """The name of an upstream's pool."""
    return f"upstream/{upstream}"

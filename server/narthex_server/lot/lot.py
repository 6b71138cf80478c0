"""The pools of a server."""

from collections.abc import Sequence

from narthex_server.errors import NotFound
from narthex_server.lot.limits import Limits
from narthex_server.lot.observer import LotObserver
from narthex_server.lot.pool import Pool
from narthex_server.lot.units import Units


class Lot:
    """Pools by name, which come and go with what they are for; used on one event loop."""

    def __init__(self, observer: LotObserver | None = None) -> None:
        self._observer = observer
        self._pools: dict[str, Pool] = {}

    def open(self, name: str, capacity: Units, limits: Limits = Limits()) -> Pool:  # noqa: B008 (frozen)
        """The pool of this name with this capacity: a new one, or the one that is there, with all that it has admitted.

        One that is there goes on draining if it does, but what it was resized to is forgotten.
        """
        if (pool := self._pools.get(name)) is not None:
            pool.refit(capacity, limits)
        else:
            pool = self._pools[name] = Pool(name, capacity, limits, self._observer)
        return pool

    def close(self, name: str) -> None:
        """What the pool is for is gone: what waits there is turned away. A name that nobody has changes nothing."""
        if (pool := self._pools.pop(name, None)) is not None:
            pool.close()

    def get(self, name: str) -> Pool:
        """The pool of this name. Errors: NotFound."""
        if (pool := self._pools.get(name)) is None:
            known = ", ".join(self._pools) or "none"
            raise NotFound(f"there is no pool {name[:200]!r}; there are: {known}", reason="POOL_NOT_FOUND")
        return pool

    @property
    def pools(self) -> Sequence[Pool]:
        """All of them, in the order in which they came up."""
        return tuple(self._pools.values())

    def resize(self, name: str, capacity: Units) -> Pool:
        """Changes how much there is of the resources that are named. Errors: NotFound, InvalidRequest."""
        pool = self.get(name)
        pool.resize(capacity)
        return pool

    def drain(self, name: str = "", *, draining: bool = True) -> Sequence[Pool]:
        """Ends admission to a pool, or to all, or admits again. Errors: NotFound."""
        pools = [self.get(name)] if name else self.pools
        for pool in pools:
            pool.drain(draining)
        return pools

"""What pools tell about what passes them."""

from typing import Protocol

from narthex_server.lot.terms import Priority


class LotObserver(Protocol):
    """Called on the event loop; must be quick and must not raise."""

    def on_admitted(self, pool: str, priority: Priority, waited: float) -> None:
        """Work may begin, after so many seconds."""
        ...

    def on_refused(self, pool: str, reason: str) -> None:
        """Work was turned away: TOO_LARGE, QUEUE_FULL, DRAINING or POOL_CLOSED."""
        ...

    def on_expired(self, pool: str, priority: Priority, waited: float) -> None:
        """Work's time was over before its turn came."""
        ...

    def on_abandoned(self, pool: str, priority: Priority, waited: float) -> None:
        """Nobody wants it any more, before its turn came."""
        ...


class Unobserved:
    """The LotObserver where nobody watches."""

    def on_admitted(self, pool: str, priority: Priority, waited: float) -> None:
        pass

    def on_refused(self, pool: str, reason: str) -> None:
        pass

    def on_expired(self, pool: str, priority: Priority, waited: float) -> None:
        pass

    def on_abandoned(self, pool: str, priority: Priority, waited: float) -> None:
        pass

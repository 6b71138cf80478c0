"""What a remote model's handle tells of its requests."""

from typing import Protocol

from narthex_server.engine.observer import RequestReport


class RemoteObserver(Protocol):
    """Called on the event loop; must be quick and must not raise."""

    def on_exchange(self, outcome: str) -> None:
        """An HTTP request ended: `ok`, `invalid`, `refused`, `busy`, `unavailable`, `cancelled` or `error`."""
        ...

    def on_generated(self, report: RequestReport) -> None:
        """An answer ended."""
        ...

    def on_embedded(self, texts: int, tokens: int, outcome: str, seconds: float) -> None:
        """A request for vectors ended."""
        ...


class Unobserved:
    """The RemoteObserver of whom nobody watches."""

    def on_exchange(self, outcome: str) -> None:
        pass

    def on_generated(self, report: RequestReport) -> None:
        pass

    def on_embedded(self, texts: int, tokens: int, outcome: str, seconds: float) -> None:
        pass

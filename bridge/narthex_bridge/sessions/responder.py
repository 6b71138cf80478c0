"""Where the messages for one client go."""

from typing import Protocol


class Responder(Protocol):
    """The way back of one request."""

    @property
    def converses(self) -> bool:
        """Whether the client reads notifications and can answer requests while its own is in work."""

    @property
    def lagging(self) -> bool:
        """Whether the client is behind with its reading."""

    async def notify(self, message: bytes) -> None:
        """Sends a notification or a request; waits while the client lags."""

    def respond(self, message: bytes, code: int) -> None:
        """Sends a response; `code` is that of its JSON-RPC error, 0 for a result."""

    def called(self, seconds: float) -> None:
        """Notes that a tool call took the server so long."""

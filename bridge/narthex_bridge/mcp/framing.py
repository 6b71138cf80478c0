"""How messages look on an HTTP stream."""

from typing import Protocol

from narthex_bridge.protocol import sse


class Framing(Protocol):
    """How messages look as events of a stream; `converses` where its client can answer requests on it."""

    converses: bool

    def notification(self, message: bytes) -> bytes: ...

    def response(self, message: bytes, code: int) -> bytes: ...


class MessageFraming:
    """MCP's own: every message is an event `message`."""

    converses = True

    def notification(self, message: bytes) -> bytes:
        return sse.message(message)

    def response(self, message: bytes, code: int) -> bytes:
        return sse.message(message)


class BareFraming:
    """No events yet: of a stream whose events are numbered when they are sent."""

    converses = True

    def notification(self, message: bytes) -> bytes:
        return message

    def response(self, message: bytes, code: int) -> bytes:
        return message


class SilentFraming(MessageFraming):
    """For a client that reads no streams: notifications are dropped."""

    converses = False

    def notification(self, message: bytes) -> bytes:
        return b""


class DirectFraming:
    """Of POST /mcp/stream: `message` for notifications, then `done` or `error`."""

    converses = False

    def notification(self, message: bytes) -> bytes:
        return sse.message(message)

    def response(self, message: bytes, code: int) -> bytes:
        return sse.event(b"error" if code else b"done", message)

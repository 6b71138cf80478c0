"""HTTP as the endpoints see it, free of any framework."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from narthex_bridge.caller import Caller

JSON = "application/json"
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request that passed the gate; header names are lower case, `path` holds what a pattern's names stand for."""

    method: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    caller: Caller
    request_id: str
    body: bytes = b""
    path: Mapping[str, str] = field(default_factory=dict)


class ByteStream(Protocol):
    """The pieces of a body; `aclose` ends the work behind them, also when no piece was taken."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


@dataclass(slots=True)
class Tally:
    """What one answer was, for the metrics: its messages, its tool calls and the seconds these took the server."""

    events: int = 0
    calls: int = 0
    server_s: float = 0.0


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer: a whole body, or a stream of pieces, which the server closes when the client goes."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    stream: ByteStream | None = None
    tally: Tally = field(default_factory=Tally)


def event_stream(pieces: ByteStream, tally: Tally, headers: tuple[tuple[str, str], ...] = ()) -> HttpResponse:
    """An answer of server-sent events that no proxy keeps back."""
    unbuffered = (("cache-control", "no-cache, no-transform"), ("x-accel-buffering", "no"))
    return HttpResponse(200, b"", EVENTS, (*headers, *unbuffered), pieces, tally)


def accepts(header: str | None, kind: str) -> bool:
    """Whether an Accept header allows a media type; no header allows all."""
    if not header:
        return True
    wanted = {part.partition(";")[0].strip().lower() for part in header.split(",")}
    return not wanted.isdisjoint((kind, "*/*", kind.partition("/")[0] + "/*"))

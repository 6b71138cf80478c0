"""One HTTP request as ASGI hands it over, and the way of its answer back."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import parse_qsl

from narthex_bridge import gate
from narthex_bridge.http.messages import HttpResponse

_BODILESS = (204, 304)
"""Statuses whose length would be that of another answer (RFC 9110, 8.6)."""

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request whose body has not been read; header names are lower case."""

    scope: Scope
    receive: Receive
    send: Send
    headers: Mapping[str, str]
    request_id: str
    started: float

    @classmethod
    def of(cls, scope: Scope, receive: Receive, send: Send) -> Self:
        headers = _headers(scope["headers"])
        return cls(scope, receive, send, headers, gate.request_id(headers), time.perf_counter())

    @property
    def method(self) -> str:
        method: str = self.scope["method"]
        return method

    @property
    def query(self) -> Mapping[str, str]:
        return dict(parse_qsl(self.scope["query_string"].decode("latin-1")))

    @property
    def peer(self) -> str:
        """The address at the other end of the connection; empty where there is none."""
        return str(self.scope["client"][0]) if self.scope.get("client") else ""

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self.started

    async def answer(self, answer: HttpResponse) -> None:
        """Sends an answer of one body."""
        length = (b"content-length", str(len(answer.body)).encode())
        await self.begin(answer, *(() if answer.status in _BODILESS else (length,)))
        await self.end(answer.body)

    async def refuse_websocket(self, answer: HttpResponse) -> None:
        """Sends an answer of one body instead of a WebSocket."""
        await self.send(
            {"type": "websocket.http.response.start", "status": answer.status, "headers": self._lines(answer)}
        )
        await self.send({"type": "websocket.http.response.body", "body": answer.body, "more_body": False})

    async def begin(self, answer: HttpResponse, *more: tuple[bytes, bytes]) -> None:
        """Sends the head."""
        lines = [*self._lines(answer), *more]
        await self.send({"type": "http.response.start", "status": answer.status, "headers": lines})

    async def go_on(self, piece: bytes) -> None:
        """Sends a piece of the body."""
        await self.send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self, piece: bytes = b"") -> None:
        """Sends the last piece."""
        await self.send({"type": "http.response.body", "body": piece, "more_body": False})

    def _lines(self, answer: HttpResponse) -> list[tuple[bytes, bytes]]:
        lines = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
        return [*lines, (b"content-type", answer.content_type.encode()), (b"x-request-id", self.request_id.encode())]


def _headers(pairs: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """What comes several times is joined (RFC 9110, 5.3), so that nobody reads just one of them."""
    headers: dict[str, str] = {}
    for name, value in ((name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs):
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers

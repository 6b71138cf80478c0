"""HTTP/1.1 under Hypercorn: plain requests are read here, and everything else by Hypercorn's own h11.

A request is plain when it is small, and written in the one way that nobody can read as something else: `parse` says
what that is. Anything else, allowed or not, goes to h11 with not a byte taken from it: only what is certain is
decided here.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import h11
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream

MAX_HEAD = 16 * 1024
MAX_BODY = 64 * 1024
ON_DISCONNECT = "narthex.on_disconnect"
"""In a scope's `extensions`: takes a function that is called when the client leaves before the answer is complete."""

_METHODS = b"GET|POST|DELETE|PUT|HEAD|OPTIONS"
_HEAD = re.compile(
    rb"(" + _METHODS + rb") (/[!-~]*) HTTP/1\.1\r\n((?:[-!#$%&'*+.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)+)\r\n"
)
_HEAD_END = re.compile(rb"\n\r?\n")  # also of a head whose lines end as they should not
_STARTS = re.compile(rb"[A-Z]")
_LENGTH = re.compile(rb"[0-9]{1,10}")
# Headers that say how the message or the connection is to be read; with any of them a request is not plain, but for a
# Content-Length that is a number and the Connection that is the default.
_FRAMING = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"http2-settings", b"te", b"trailer"})
_UNSAFE = re.compile(rb"[\r\n\0]")
_ABSOLUTE = re.compile(rb"https?://([^/?#]+)(/[^#]*)?", re.IGNORECASE)
_UNUSED = h11.Connection(h11.SERVER)  # of every connection without an odd request so far; it never sees a byte


@dataclass(frozen=True, slots=True)
class Plain:
    """A request whose head is whole: header names are lower case, `body` is what has come of it, `missing` how many
    bytes have not, and `size` what it took of the buffer."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    missing: int
    size: int


class Odd(Exception):
    """Not a plain request, whatever else it is."""


def parse(data: bytes) -> Plain | None:
    """The plain request that `data` begins with; None while it may become one. Raises Odd.

    Plain: `METHOD /path HTTP/1.1`, lines that end in CRLF, no continuation lines, exactly one Host, at most one
    Content-Length of digits alone, no other framing, no `Connection` but `keep-alive`; the sizes within bounds.
    """
    end = _HEAD_END.search(data, 0, MAX_HEAD)
    if end is None:
        if len(data) >= MAX_HEAD or not _STARTS.match(data):
            raise Odd
        return None
    head = _HEAD.fullmatch(data, 0, end.end())
    if head is None:
        raise Odd
    method, target, lines = head.groups()
    headers: list[tuple[bytes, bytes]] = []
    length, hosts = None, 0
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"host":
            hosts += 1
        elif name == b"content-length":
            if length is not None or not _LENGTH.fullmatch(value):
                raise Odd
            length = int(value)
        elif name in _FRAMING or (name == b"connection" and value.lower() != b"keep-alive"):
            raise Odd
        headers.append((name, value))
    if hosts != 1 or (length or 0) > MAX_BODY:
        raise Odd
    body = data[end.end() : end.end() + (length or 0)]
    return Plain(method.decode(), target, headers, body, (length or 0) - len(body), end.end() + len(body))


class Http1Protocol(H11Protocol):
    """A connection's requests, one after the other; those that come before the answer of another wait."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connection = _UNUSED
        self._held = b""
        self._cycle: Cycle | None = None

    async def handle(self, event: Event) -> None:
        match event:
            case RawData(data) if data and not self._odd:
                self._held += data if self._cycle is None else self._cycle.feed(data)
                await self._next()
            case Closed() if self._cycle is not None:
                self._cycle.leave()
            case RawData(b"") if not self._odd:
                pass  # the end of what the client sends: Closed follows
            case _:
                await super().handle(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        # An upgrade to h2c is not done: a proxy that passes it on would no longer see what it is to check.
        if event.method == b"PRI":
            await super()._check_protocol(event)

    async def _create_stream(self, request: h11.Request) -> None:
        """Begins an odd request. There is no WebSocket here, so none is opened, as RFC 9110, 7.8 allows."""
        if refused := _refused(request):
            await self._send_error_response(refused)
            await self.send(Closed())
            return
        self.stream = HTTPStream(
            self.app, self.config, self.context, self.task_group, self.ssl, self.client, self.server, self.stream_send,
            STREAM_ID,
        )  # fmt: skip
        absolute = _ABSOLUTE.fullmatch(request.target)
        begun = Request(
            stream_id=STREAM_ID,
            headers=list(request.headers),
            http_version=request.http_version.decode(),
            method=request.method.decode(),
            raw_path=(absolute[2] or b"/") if absolute else request.target,
            state=self.connection_state,
        )
        await self.stream.handle(begun)
        await self.context.mark_request()

    @property
    def _odd(self) -> bool:
        """Whether h11 has a request in work, or bytes of one."""
        connection = self.connection
        return not (
            isinstance(connection, h11.Connection)
            and connection.our_state is h11.IDLE
            and connection.their_state is h11.IDLE
            and not connection.trailing_data[0]
        )

    async def _next(self) -> None:
        while self._held:
            if self._cycle is not None:
                await self.can_read.clear()
                await self.can_read.wait()
                continue
            try:
                plain = parse(self._held)
            except Odd:
                data, self._held = self._held, b""
                if self.connection is _UNUSED:
                    self.connection = h11.Connection(h11.SERVER, self.config.h11_max_incomplete_size)
                await super().handle(RawData(data))
                return
            if plain is None:
                return
            self._held = self._held[plain.size :]
            self._cycle = Cycle(self, plain)
            await self.send(Updated(idle=False))
            self.task_group.spawn(self._cycle.run)

    async def answered(self, *, last: bool) -> None:
        """The cycle is over, and with `last` the connection too."""
        self._cycle = None
        if last or self.context.terminated.is_set():
            self._held = b""
            await self.can_read.set()
            await self.send(Closed())
        else:
            await self.can_read.set()
            await self.send(Updated(idle=True))


def _refused(request: h11.Request) -> int:
    """The status that a request with which h11 is content is refused with; 0 for none."""
    headers = dict(request.headers)
    if b"transfer-encoding" in headers and b"content-length" in headers:
        return 400  # whoever reads the other one sees another request behind this (RFC 9112, 6.3)
    if request.http_version not in (b"1.0", b"1.1"):
        return 505
    absolute = _ABSOLUTE.fullmatch(request.target)
    if absolute and absolute[1].lower() != headers.get(b"host", absolute[1]).lower():
        return 400  # for whom is it?
    return 0


class Cycle:
    """One plain request and its answer: the ASGI application's `receive` and `send`."""

    def __init__(self, protocol: Http1Protocol, request: Plain) -> None:
        self._protocol = protocol
        self._request = request
        self._came = request.body
        self._missing = request.missing
        self._received = False  # the whole body
        self._gone = False
        self._waiter: asyncio.Future[None] | None = None  # of a `receive`
        self._on_gone: Callable[[], None] | None = None
        self._head: bytes | None = None
        self._begun = False
        self._over = False
        self._chunked = False
        self._bodiless = False
        self._left = 0  # of the length that the answer's head names
        self._last = False

    async def run(self) -> None:
        """Runs the application, and closes the connection where it leaves no complete answer."""
        protocol, request = self._protocol, self._request
        path, _, query = request.target.partition(b"?")
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "method": request.method,
            "scheme": "https" if protocol.ssl else "http",
            "path": unquote(path.decode("ascii")) if b"%" in path else path.decode("ascii"),
            "raw_path": path,
            "query_string": query,
            "root_path": protocol.config.root_path,
            "headers": request.headers,
            "client": protocol.client,
            "server": protocol.server,
            "state": protocol.connection_state.copy(),
            "extensions": {ON_DISCONNECT: self._tell_when_gone},
        }
        application: Any = protocol.app
        try:
            await application(scope, self._receive, self._send, None, None)
        except Exception:
            await protocol.config.log.exception("Error in ASGI Framework")
        finally:
            if not self._over:
                await self._broken()

    def feed(self, data: bytes) -> bytes:
        """Takes what is missing of the body; returns what comes after it."""
        taken = data[: self._missing]
        if taken:
            self._missing -= len(taken)
            self._came += taken
            self._wake()
        return data[len(taken) :]

    def leave(self) -> None:
        """The client has gone; what it sent ahead is nobody's request any more."""
        if not self._over and not self._gone:
            self._last = True
            self._end()
            if self._on_gone is not None:
                self._on_gone()

    def _tell_when_gone(self, callback: Callable[[], None]) -> None:
        self._on_gone = callback
        if self._gone:
            callback()

    async def _receive(self) -> Mapping[str, Any]:
        while not self._gone:
            if not self._received and (self._came or not self._missing):
                body, self._came, self._received = self._came, b"", not self._missing
                return {"type": "http.request", "body": body, "more_body": not self._received}
            self._waiter = self._waiter or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiter)
        return {"type": "http.disconnect"}

    async def _send(self, message: Mapping[str, Any]) -> None:
        if self._over:
            return
        match message["type"]:
            case "http.response.start" if not self._begun:
                head = self._start(int(message["status"]), message.get("headers", ()))
                self._begun = True
                if self._chunked:
                    await self._protocol.send(RawData(head))
                else:
                    self._head = head  # goes with the body, in one write
            case "http.response.body" if self._begun:
                await self._body(message.get("body", b""), more=message.get("more_body", False))
            case kind:
                raise RuntimeError(f"{kind} does not come here in an answer")

    def _start(self, status: int, headers: Any) -> bytes:
        self._bodiless = self._request.method == "HEAD" or status in (204, 304)
        lines = [b"HTTP/1.1 %d " % status]
        self._chunked = not self._bodiless
        for name, value in (*headers, *self._protocol.config.response_headers("h11")):
            if _UNSAFE.search(name) or _UNSAFE.search(value):
                raise ValueError(f"header {name!r} holds a line break")
            lines.append(b"%b: %b" % (name, value))
            match name.lower():
                case b"content-length" if status == 204:
                    lines.pop()  # RFC 9110 allows none here
                case b"content-length":
                    self._left, self._chunked = int(value), False
                case b"connection" if value.lower() == b"close":
                    self._last = True
        if self._chunked:
            lines.append(b"transfer-encoding: chunked")
        return b"\r\n".join(lines) + b"\r\n\r\n"

    async def _body(self, data: bytes, *, more: bool) -> None:
        if self._bodiless:
            data = b""
        elif self._chunked:
            data = (b"%x\r\n%b\r\n" % (len(data), data) if data else b"") + (b"" if more else b"0\r\n\r\n")
        else:
            self._left -= len(data)
            if self._left < 0 or (self._left and not more):
                raise ValueError("the body is not as long as its head says")
        if self._head is not None:
            data, self._head = self._head + data, None
        if data:
            await self._protocol.send(RawData(data))
        if not more:
            await self._finish()

    async def _broken(self) -> None:
        if not self._gone and (not self._begun or self._head is not None):
            self._head = None
            await self._protocol.send(RawData(b"HTTP/1.1 500 \r\ncontent-length: 0\r\nconnection: close\r\n\r\n"))
        self._last = True
        await self._finish()

    def _end(self) -> None:
        self._gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            self._waiter.set_result(None)
            self._waiter = None

    async def _finish(self) -> None:
        self._over = True
        self._end()
        # What would come next on this connection is the rest of a body that nobody wants.
        await self._protocol.answered(last=self._last or self._missing > 0)

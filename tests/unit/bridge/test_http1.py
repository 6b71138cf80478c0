"""HTTP/1.1 as clients and attackers write it: plain requests take the short way, and nobody can tell."""

import asyncio
import random
from contextlib import asynccontextmanager

import h2.connection
import h2.events
import h11
import pytest
from narthex.settings import Address
from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.main import bind, hypercorn_config
from narthex_bridge.transport.host import serve
from narthex_bridge.transport.http1 import MAX_BODY, MAX_HEAD, ON_DISCONNECT, Odd, parse

POST = b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nAccept: x, y\r\n\r\nhello"
GET = b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\n\r\n"
BYE = b"GET /bye HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def test_a_plain_request_is_read_whole_and_what_follows_is_left():
    found = parse(POST + GET)
    assert (found.method, found.target, found.body, found.size) == ("POST", b"/a?b=c", b"hello", len(POST))
    assert found.headers == [(b"host", b"h"), (b"content-length", b"5"), (b"accept", b"x, y")]


@pytest.mark.parametrize("request_bytes", [POST, GET], ids=["with a body", "without"])
def test_every_beginning_of_a_plain_head_may_become_one(request_bytes):
    head = request_bytes.index(b"\r\n\r\n") + 4
    assert all(parse(request_bytes[:size]) is None for size in range(1, head))


def test_a_plain_request_may_come_before_its_body():
    for come in range(5):
        found = parse(POST[: len(POST) - 5 + come])
        assert (found.body, found.missing) == (b"hello"[:come], 5 - come)


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST.replace(b"\r\n", b"\n"),
        POST.replace(b"Host: h\r\n", b"Host: h\n"),
        POST.replace(b"Host: h\r\n", b""),
        POST.replace(b"Host: h\r\n", b"Host: h\r\nHost: h\r\n"),
        POST.replace(b"Host: h\r\n", b"Host : h\r\n"),
        POST.replace(b"Host: h\r\n", b" Host: h\r\n"),
        POST.replace(b"Accept: x", b"Accept: x\r\n y"),
        POST.replace(b"Accept: x", b"Accept: \x00"),
        POST.replace(b"Accept: x", b"Accept: x\ry"),
        POST.replace(b"Accept: x", b"Content-Length: 5"),
        POST.replace(b"Accept: x, y", b"Content-Length: 6"),
        POST.replace(b"Accept: x, y", b"Transfer-Encoding: chunked"),
        POST.replace(b"Accept: x, y", b"transfer-encoding: identity"),
        POST.replace(b"Accept: x, y", b"Expect: 100-continue"),
        POST.replace(b"Accept: x, y", b"Upgrade: h2c"),
        POST.replace(b"Accept: x, y", b"Connection: close"),
        POST.replace(b"Accept: x, y", b"Connection: keep-alive, upgrade"),
        POST.replace(b"Length: 5", b"Length: +5"),
        POST.replace(b"Length: 5", b"Length: 0x5"),
        POST.replace(b"Length: 5", b"Length: 5, 5"),
        POST.replace(b"Length: 5", b"Length: "),
        POST.replace(b"Length: 5", b"Length: " + b"\xd9\xa5"),
        POST.replace(b"Length: 5", b"Length: %d" % (MAX_BODY + 1)),
        POST.replace(b"HTTP/1.1", b"HTTP/1.0"),
        POST.replace(b"HTTP/1.1", b"HTTP/2.0"),
        POST.replace(b" HTTP/1.1", b""),
        POST.replace(b"/a", b"http://h/a"),
        POST.replace(b"/a", b"/a b"),
        POST.replace(b"/a", "/ä".encode()),
        POST.replace(b"POST", b"post"),
        POST.replace(b"POST", b"CONNECT"),
        b"\r\n" + POST,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/1.1\r\nA: " + b"x" * MAX_HEAD,
    ],
)  # fmt: skip
def test_anything_else_is_not_decided_here(request_bytes):
    with pytest.raises(Odd):
        parse(request_bytes)


def test_what_is_plain_reads_the_same_to_h11():
    chance = random.Random(7)
    pieces = [
        b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b"\0", b"0", b"5", b"\xff", b"/", b"\x0b", b"\x85", b"HTTP/1.1",
        b"Content-Length: 5\r\n", b"Host: h\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: x\r\n",
    ]  # fmt: skip
    plain = 0
    for _ in range(20_000):
        data = bytearray(POST + GET)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(data))
            data[at : at + chance.choice((0, 0, 1, 2))] = chance.choice(pieces)
        try:
            found = parse(bytes(data))
        except Odd:
            continue
        if found is None:
            continue
        plain += 1
        reference = h11.Connection(h11.SERVER)
        reference.receive_data(bytes(data))
        request = reference.next_event()
        assert (request.method.decode(), request.target) == (found.method, found.target)
        assert list(request.headers) == found.headers
        body = b""
        while isinstance(event := reference.next_event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage)
        assert (body, reference.trailing_data[0]) == (found.body, bytes(data[found.size :]))
    assert plain > 1000


class App:
    """Answers with what it was asked; /stream in pieces, /hang when it is released, /bad as no answer may be."""

    def __init__(self):
        self.hanging, self.left, self.release = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.short = []

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                event = (await receive())["type"].removeprefix("lifespan.")
                await send({"type": f"lifespan.{event}.complete"})
                if event == "shutdown":
                    return
        body, more = b"", True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        self.short.append(ON_DISCONNECT in scope["extensions"])
        kind, headers = scope["path"], [(b"content-type", b"text/plain")]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        match kind:
            case "/stream":
                await send(start)
                for piece in (b"one", b"", b"two"):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            case "/hang":
                on_disconnect = scope["extensions"].get(ON_DISCONNECT)
                if on_disconnect:
                    on_disconnect(self.left.set)
                self.hanging.set()
                if not on_disconnect:
                    assert (await receive())["type"] == "http.disconnect"
                    self.left.set()
                await self.release.wait()
            case "/split":
                headers.append((b"x", b"1\r\nset-cookie: a"))
            case "/empty":
                await send(start | {"status": 204, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body", "body": b""})
                return
            case "/long":
                headers.append((b"content-length", b"3"))
            case "/raises":
                raise ValueError("the application's own fault")
            case "/nothing":
                return
            case "/cut":
                await send(start)
                await send({"type": "http.response.body", "body": b"half", "more_body": True})
                return
        answer = f"{scope['method']} {kind} {len(body)}".encode()
        if kind != "/long":
            headers.append((b"content-length", b"%d" % len(answer)))
        await send(start)
        await send({"type": "http.response.body", "body": answer})


class Client:
    """A socket."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def send(self, data):
        self.writer.write(data)

    async def answer(self, method=b"GET"):
        """Reads one response as h11 does: its status and body."""
        reading = h11.Connection(h11.CLIENT)
        reading.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
        reading.send(h11.EndOfMessage())
        status, body = None, b""
        while True:
            event = reading.next_event()
            if event is h11.NEED_DATA:
                reading.receive_data(await self.reader.read(1))  # no byte of the next response
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, body

    async def closed(self):
        return await self.reader.read() == b""


@asynccontextmanager
async def serving(app, **changes):
    config, stop, ready = BridgeConfig(http=Address("127.0.0.1", 0)), asyncio.Event(), asyncio.Event()
    listener = bind(config.http)
    address, settings = listener.getsockname(), hypercorn_config(config, listener)
    for name, value in changes.items():
        setattr(settings, name, value)

    async def until_stopped():
        ready.set()
        await stop.wait()

    running = asyncio.create_task(serve(app, settings, shutdown_trigger=until_stopped))
    await ready.wait()
    opened = []

    async def connect():
        opened.append(Client(*await asyncio.open_connection(*address)))
        return opened[-1]

    try:
        yield connect, stop
    finally:
        for client in opened:
            client.writer.close()
        stop.set()
        await running


@pytest.fixture
def app():
    return App()


@pytest.fixture
async def connect(app):
    async with serving(app) as (connect, _):
        yield connect


async def test_requests_on_one_connection_are_answered_in_order(app, connect):
    client = await connect()
    for _ in range(3):
        client.send(POST)
        assert await client.answer() == (200, b"POST /a 5")
    client.send(POST + GET + POST)
    assert [await client.answer() for _ in range(3)] == [(200, b"POST /a 5"), (200, b"GET /x 0"), (200, b"POST /a 5")]
    assert app.short == [True] * 6


async def test_a_request_may_come_in_any_pieces(app, connect):
    client = await connect()
    for at in range(len(POST)):
        client.send(POST[at : at + 1])
        await client.writer.drain()
        await asyncio.sleep(0)
    assert await client.answer() == (200, b"POST /a 5")


async def test_both_ways_alternate_on_one_connection(app, connect):
    client = await connect()
    chunked = b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
    large = b"POST /l HTTP/1.1\r\nHost: h\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000
    for _ in range(2):
        client.send(GET)
        assert await client.answer() == (200, b"GET /x 0")
        client.send(chunked)
        assert await client.answer() == (200, b"POST /c 7")
        client.send(large)
        assert await client.answer() == (200, b"POST /l 300000")
    client.send(GET + chunked + GET + chunked)
    found = [(await client.answer())[1] for _ in range(4)]
    assert found == [b"GET /x 0", b"POST /c 7", b"GET /x 0", b"POST /c 7"]
    assert app.short[:6] == [True, False, False] * 2


async def test_a_client_that_waits_for_100_continue_gets_it(connect):
    client = await connect()
    client.send(POST.replace(b"Accept: x, y", b"Expect: 100-continue").removesuffix(b"hello"))
    assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    client.send(b"hello")
    assert await client.answer() == (200, b"POST /a 5")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (POST.replace(b"Host: h\r\n", b""), 400),
        (POST.replace(b"Accept: x, y", b"Content-Length: 6"), 400),
        (POST.replace(b"Accept: x, y", b"Transfer-Encoding: identity"), 501),
        (POST.replace(b"Accept: x", b"Accept: \x00"), 400),
        (POST.replace(b"Host: h", b"Host : h"), 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"x" * 2 * MAX_HEAD, 431),
        (b"nonsense\r\n\r\n", 400),
    ],
)
async def test_what_is_wrong_is_refused_and_ends_the_connection(app, connect, request_bytes, status):
    client = await connect()
    client.send(GET)
    await client.answer()
    client.send(request_bytes + (GET if status != 431 else b""))
    assert await client.answer() == (status, b"")
    assert await client.closed()
    assert len(app.short) == 1


SMUGGLED = b"0\r\n\r\nGET /secret HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize("length", [len(SMUGGLED), 4])
async def test_a_body_with_two_framings_is_refused_and_nothing_behind_it_is_read(app, connect, length):
    client = await connect()
    head = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % length
    client.send(GET + head + SMUGGLED)
    assert await client.answer() == (200, b"GET /x 0")
    assert await client.answer() == (400, b"")
    assert await client.closed() and len(app.short) == 1


@pytest.mark.parametrize(
    ("target", "host", "status"), [(b"http://H/x", b"h", 200), (b"http://h", b"h", 200), (b"http://evil/x", b"h", 400)]
)
async def test_a_target_with_a_host_of_its_own_must_name_the_same(connect, target, host, status):
    client = await connect()
    client.send(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host))
    found, body = await client.answer()
    assert found == status and (found == 400 or body.startswith(b"GET /"))


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
async def test_nothing_is_upgraded_to(connect, protocol):
    client = await connect()
    client.send(GET.replace(b"keep-alive", b"Upgrade\r\nUpgrade: " + protocol) + GET)
    assert await client.answer() == (200, b"GET /x 0")
    assert await client.answer() == (200, b"GET /x 0")


async def test_other_versions_are_refused(connect):
    client = await connect()
    client.send(GET.replace(b"/1.1", b"/1.2"))
    assert await client.answer() == (505, b"")
    assert await client.closed()


async def test_streams_come_in_chunks_and_the_connection_goes_on(connect):
    client = await connect()
    client.send(GET.replace(b"/x", b"/stream") + GET)
    assert await client.answer() == (200, b"onetwo")
    assert await client.answer() == (200, b"GET /x 0")


async def test_an_answer_without_content_names_no_length(connect):
    client = await connect()
    client.send(GET.replace(b"/x", b"/empty"))
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 204 ") and b"content-length" not in head and b"chunked" not in head
    client.send(GET)
    assert await client.answer() == (200, b"GET /x 0")


async def test_head_gets_no_body(connect):
    client = await connect()
    client.send(GET.replace(b"GET", b"HEAD") + GET)
    assert await client.answer(b"HEAD") == (200, b"")
    assert await client.answer() == (200, b"GET /x 0")


async def test_the_last_request_closes_the_connection(connect):
    client = await connect()
    client.send(BYE)
    assert await client.answer() == (200, b"GET /bye 0")
    assert await client.closed()
    old = await connect()
    old.send(b"GET /old HTTP/1.0\r\n\r\n")
    assert (await old.answer())[1] == b"GET /old 0"
    assert await old.closed()


async def test_http2_is_spoken_to_whoever_begins_with_it(connect):
    client, http = await connect(), h2.connection.H2Connection()
    http.initiate_connection()
    head = [(":method", "GET"), (":path", "/two"), (":scheme", "http"), (":authority", "h")]
    http.send_headers(1, head, end_stream=True)
    client.send(http.data_to_send())
    body, ended = b"", False
    while not ended:
        for event in http.receive_data(await client.reader.read(65536)):
            body += event.data if isinstance(event, h2.events.DataReceived) else b""
            ended |= isinstance(event, h2.events.StreamEnded)
    assert body == b"GET /two 0"


async def test_a_client_that_leaves_is_noticed_at_once(app, connect):
    client = await connect()
    client.send(GET.replace(b"/x", b"/hang"))
    await app.hanging.wait()
    client.writer.close()
    await app.left.wait()
    app.release.set()


@pytest.mark.parametrize("framing", [b"Connection: keep-alive", b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("ahead", [b"G", GET])
async def test_a_client_that_leaves_with_requests_unanswered_is_noticed_too(app, connect, framing, ahead):
    client = await connect()
    body = b"0\r\n\r\n" if b"chunked" in framing else b""
    client.send(b"GET /hang HTTP/1.1\r\nHost: h\r\n" + framing + b"\r\n\r\n" + body + ahead)
    await app.hanging.wait()
    client.writer.close()
    await app.left.wait()
    app.release.set()
    assert len(app.short) == 1


async def test_what_is_sent_ahead_is_answered_in_order(app, connect):
    client = await connect()
    client.send(GET.replace(b"/x", b"/hang"))
    await app.hanging.wait()
    for _ in range(3000):  # more than is read ahead
        client.send(GET)
    app.release.set()
    assert await client.answer() == (200, b"GET /hang 0")
    for _ in range(3000):
        assert await client.answer() == (200, b"GET /x 0")


@pytest.mark.parametrize("path", [b"/raises", b"/nothing", b"/split", b"/long"])
async def test_an_answer_that_cannot_be_is_500_and_ends_the_connection(connect, path):
    client = await connect()
    client.send(GET.replace(b"/x", path))
    assert await client.answer() == (500, b"")
    assert await client.closed()


async def test_a_stream_that_breaks_off_is_cut_and_not_completed(connect):
    client = await connect()
    client.send(GET.replace(b"/x", b"/cut"))
    assert (await client.reader.read()).endswith(b"4\r\nhalf\r\n")


async def test_idle_connections_are_closed_after_their_time_and_at_shutdown(app):
    async with serving(app, keep_alive_timeout=0.05) as (connect, _):
        silent, used = await connect(), await connect()
        used.send(GET)
        await used.answer()
        assert await silent.closed() and await used.closed()
    async with serving(app) as (connect, stop):
        idle, working = await connect(), await connect()
        working.send(GET.replace(b"/x", b"/hang"))
        await app.hanging.wait()
        stop.set()
        assert await idle.closed()
        app.release.set()
        assert await working.answer() == (200, b"GET /hang 0")
        assert await working.closed()


async def test_what_works_longer_than_the_grace_is_cut_off(app):
    async with serving(app, graceful_timeout=0.05) as (connect, stop):
        working = await connect()
        working.send(GET.replace(b"/x", b"/hang"))
        await app.hanging.wait()
        stop.set()
        assert await working.answer() == (500, b"")

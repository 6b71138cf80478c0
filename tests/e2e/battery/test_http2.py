"""HTTP/2 with prior knowledge: the same gate, and streams that are taken back faster than they are made."""

import asyncio
import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import pytest

WEEDS = h2.config.H2Configuration(
    validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding="utf-8"
)  # fmt: skip


class Two:
    """A connection that sends whatever headers it is told to."""

    def __init__(self, wire):
        self.wire, self.http = wire, h2.connection.H2Connection(WEEDS)
        self.http.initiate_connection()
        self.flush()

    def flush(self):
        self.wire.send(self.http.data_to_send())

    def ask(self, path, *more, method="GET", authority=None, end=True):
        stream = self.http.get_next_available_stream_id()
        head = [(":method", method), (":path", path), (":scheme", "http")]
        head += [(":authority", authority or self.wire.host)] if authority != "" else []
        self.http.send_headers(stream, [*head, *more], end_stream=end)
        self.flush()
        return stream

    async def status(self, stream):
        """Of the answer, or 0 where the stream or the connection is given up."""
        async with asyncio.timeout(10):
            while data := await self.wire.reader.read(65536):
                for event in self.http.receive_data(data):
                    if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                        return int(dict(event.headers)[":status"])
                    if isinstance(event, h2.events.ConnectionTerminated):
                        return 0
                    if isinstance(event, h2.events.StreamReset) and event.stream_id == stream:
                        return 0
                self.flush()
        return 0


async def test_the_authority_is_the_host_and_another_host_beside_it_is_refused(bridge, connect):
    two = Two(await connect(bridge))
    assert await two.status(two.ask("/mcp/list")) == 200
    for authority, more in (("evil.example", ()), (None, (("host", "evil.example"),)), ("", ())):
        two = Two(await connect(bridge))
        assert await two.status(two.ask("/mcp/list", *more, authority=authority)) in (0, 400, 403)


@pytest.mark.parametrize(
    "more",
    [
        (("transfer-encoding", "chunked"),), (("connection", "keep-alive"),), (("x", "a\r\nb: c"),),
        (("X-Upper", "a"),), ((":path", "/metrics"),), (("x: y", "a"),), (("content-length", "-1"),),
    ],
)  # fmt: skip
async def test_what_http_1_would_read_otherwise_is_no_request(bridge, connect, more):
    two = Two(await connect(bridge))
    try:
        found = await two.status(two.ask("/mcp/list", *more))
    except h2.exceptions.ProtocolError:
        return  # the library does not even send it
    assert found in (0, 400, 403)
    assert (await (await connect(bridge)).get("/healthz")).status == 200


async def test_streams_that_are_reset_at_once_cost_nobody_else(bridge, connect):
    two, other = Two(await connect(bridge)), await connect(bridge)
    before = bridge.resident()
    for _ in range(20):
        for _ in range(100):
            stream = two.ask("/mcp/list")
            two.http.reset_stream(stream)
        two.flush()
        began = time.perf_counter()
        assert (await other.get("/healthz")).status == 200
        assert time.perf_counter() - began < 2
    assert bridge.resident() - before < 40 << 20
    assert "Traceback" not in bridge.log.read_text()

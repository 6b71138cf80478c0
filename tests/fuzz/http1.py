"""A fuzzer for plain HTTP/1.1 requests, whose reference is h11: `python tests/fuzz/http1.py -max_total_time=60`."""

import atheris
import h11
from seeded import fuzz

with atheris.instrument_imports(include=["narthex_bridge.transport.http1"]):
    from narthex_bridge.transport.http1 import Odd, parse

SEEDS = (
    b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nAccept: x, y\r\n\r\nhelloGET / HTTP/1.1\r\n",
    b"GET /x HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nX:\t a \xff\r\n\r\n",
    b"DELETE /x HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n0\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
)


def check(data: bytes) -> None:
    """What is plain reads the same to h11, to the last byte, and what is not yet whole may still become anything."""
    try:
        found = parse(data)
    except Odd:
        return
    if found is None:
        return
    reference = h11.Connection(h11.SERVER)
    reference.receive_data(data)
    request = reference.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method.decode(), request.target, list(request.headers)) == (
        found.method,
        found.target,
        found.headers,
    )
    body = b""
    while isinstance(event := reference.next_event(), h11.Data):
        body += event.data
    assert body == found.body
    if found.missing:
        assert event is h11.NEED_DATA
        assert found.size == len(data)
    else:
        assert isinstance(event, h11.EndOfMessage)
        assert reference.trailing_data[0] == data[found.size :]


if __name__ == "__main__":
    fuzz(check, SEEDS)

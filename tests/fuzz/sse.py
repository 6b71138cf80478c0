"""A fuzzer for streams of remote engines: `python tests/fuzz/sse.py -max_total_time=60`."""

import re

import atheris
from seeded import fuzz

with atheris.instrument_imports(include=["narthex_server.pipelines.remote.sse"]):
    from narthex_server.pipelines.remote.sse import SseEvent, SseParser, TooLong

LONGEST = 200
SEEDS = (
    b"\x05event: message\ndata: {}\n\ndata: a\r\ndata: b\r\n\r\n: comment\rid: 1\r\r",
    b"\x01\xef\xbb\xbfdata\ndata:\n\ndata:  x\xe2\x80\xa8y\n\nretry: 1\n\n",
    b"\x02data: " + b"x" * 300,
)


def expected(stream: bytes) -> list[SseEvent]:
    """The events by the words of the standard, of a stream in one piece."""
    events: list[SseEvent] = []
    kind, data = b"", list[bytes]()
    *lines, _ = re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf"))
    for line in lines:
        name, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if line and name == b"data":
            data.append(value)
        elif line and name == b"event":
            kind = value
        elif not line:
            if data:
                events.append(SseEvent(kind.decode("utf-8", "replace"), b"\n".join(data)))
            kind, data = b"", []
    return events


def check(data: bytes) -> None:
    """However a stream is cut, its events are those of the standard, or an event is too long."""
    if not data:
        return
    step, stream = data[0] % 32 + 1, data[1:]
    parser, found = SseParser(LONGEST), list[SseEvent]()
    try:
        for at in range(0, len(stream), step):
            found += parser.feed(stream[at : at + step])
    except TooLong:
        assert len(stream) > LONGEST
        return
    assert found == expected(stream)
    assert all(len(event.data) <= LONGEST for event in found)


if __name__ == "__main__":
    fuzz(check, SEEDS)

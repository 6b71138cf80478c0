import pytest
from narthex_server.pipelines.remote.sse import SseEvent, SseParser, TooLong

STREAM = (
    '\ufeffdata: {"a": "ü\u2028\u0085x"}\r\n\r\n: a comment\r\rdata:one\ndata: two\n\nevent: error\rdata:  three\r\n\n'
    "id: 7\nretry: 9\ndata\n\nevent: nothing\n\ndata: cut off\n"
).encode()
EVENTS = [
    SseEvent("", '{"a": "ü\u2028\u0085x"}'.encode()),
    SseEvent("", b"one\ntwo"),
    SseEvent("error", b" three"),
    SseEvent("", b""),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_events_are_the_same_however_the_bytes_are_cut(size):
    parser = SseParser()
    assert [event for at in range(0, len(STREAM), size) for event in parser.feed(STREAM[at : at + size])] == EVENTS


def test_every_single_cut_and_empty_pieces_change_nothing():
    for cut in range(len(STREAM)):
        parser = SseParser()
        pieces = (STREAM[:cut], b"", STREAM[cut:], b"")
        assert [event for piece in pieces for event in parser.feed(piece)] == EVENTS


@pytest.mark.parametrize("endless", [b"data: xxxxxxxxxx\n", b"data: x", b"xxxxxxxxxxx", b":xxxxxxxxxx"])
def test_what_does_not_end_is_given_up(endless):
    parser = SseParser(longest=1000)
    with pytest.raises(TooLong):
        for _ in range(1000):
            parser.feed(endless)


def test_comments_that_keep_a_stream_alive_are_no_burden():
    parser = SseParser(longest=100)
    assert not any(parser.feed(b": still here\n\n") for _ in range(1000))

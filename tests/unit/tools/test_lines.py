import pytest
from narthex_server.tools.upstream.lines import KEPT, Lines, LongLine

STREAM = b"one\n\ntwo and more\n" + b"x" * 100 + b"\nlast"


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_lines_are_the_same_whatever_pieces_they_come_in(size):
    lines = Lines(100)
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [line for piece in pieces for line in lines.feed(piece)] == [b"one", b"", b"two and more", b"x" * 100]
    assert lines.feed(b"\n") == [b"last"]


@pytest.mark.parametrize("size", [1000, 4096, 5000, 100_000])
def test_of_a_line_that_is_too_long_the_ends_are_left_and_the_next_is_whole(size):
    content = b"head" + b"." * 50_000 + b"tail"
    stream = content + b"\nnext\n"
    lines = Lines(9999)
    found = [line for at in range(0, len(stream), size) for line in lines.feed(stream[at : at + size])]
    assert found == [LongLine(content[:KEPT], content[-KEPT:], len(content)), b"next"]


def test_a_line_without_an_end_takes_no_more_memory_than_the_longest():
    lines = Lines(10_000)
    for _ in range(1000):
        assert not lines.feed(b"x" * 9000)
    kept = sum(map(len, lines._parts)) + len(lines._tail)
    assert kept <= 2 * KEPT
    assert lines.feed(b"\n") == [LongLine(b"x" * KEPT, b"x" * KEPT, 9_000_000)]


def test_the_limit_itself_is_no_more_than_the_limit():
    lines = Lines(5)
    assert lines.feed(b"12345\n123456\n") == [b"12345", LongLine(b"123456", b"123456", 6)]

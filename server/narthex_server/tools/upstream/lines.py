"""Bytes cut into lines, whatever pieces they come in."""


class LineTooLong(ValueError):
    """There is no end of the line within the limit."""


class Lines:
    """The lines of one stream; a piece is looked at once, and copied once more where a line goes on in the next."""

    def __init__(self, longest: int) -> None:
        """`longest` is in bytes, without the end of the line."""
        self._longest = longest
        self._rest: list[bytes] = []  # the line that has begun
        self._length = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that end in `piece`, without their ends; raises LineTooLong."""
        *ended, rest = piece.split(b"\n")
        if ended and self._rest:
            ended[0] = b"".join((*self._rest, ended[0]))
            self._rest.clear()
            self._length = 0
        if rest:
            self._rest.append(rest)
            self._length += len(rest)
        if self._length > self._longest or (ended and len(max(ended, key=len)) > self._longest):
            raise LineTooLong(f"a line of more than {self._longest} bytes")
        return ended

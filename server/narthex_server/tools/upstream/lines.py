"""Bytes cut into lines, whatever pieces they come in."""

from dataclasses import dataclass

KEPT = 4096
"""What is kept of each end of a line that is too long, in bytes."""


@dataclass(frozen=True, slots=True)
class LongLine:
    """What is left of a line that is not kept."""

    head: bytes
    tail: bytes
    length: int

    @classmethod
    def of(cls, line: bytes) -> "LongLine":
        return cls(line[:KEPT], line[-KEPT:], len(line))


class Lines:
    """The lines of one stream; of one that is too long the ends alone are kept, so that a line costs no more memory."""

    def __init__(self, longest: int) -> None:
        """`longest` is in bytes, without the end of the line."""
        self._longest = longest
        self._parts: list[bytes] = []  # of the line that has begun
        self._length = 0
        self._tail = b""

    def feed(self, piece: bytes) -> list[bytes | LongLine]:
        """The lines that end in `piece`, without their ends."""
        first, *others = piece.split(b"\n")
        self._add(first)
        lines = []
        for other in others:
            lines.append(self._end())
            self._add(other)
        return lines

    def _add(self, part: bytes) -> None:
        if not part:
            return
        self._length += len(part)
        if self._length <= self._longest:
            self._parts.append(part)
        elif not self._tail:
            whole = b"".join((*self._parts, part))
            self._parts = [whole[:KEPT]]
            self._tail = whole[-KEPT:]
        else:
            self._tail = (self._tail + part)[-KEPT:]

    def _end(self) -> bytes | LongLine:
        whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        line = LongLine(whole, self._tail, self._length) if self._tail else whole
        self._parts, self._length, self._tail = [], 0, b""
        return line

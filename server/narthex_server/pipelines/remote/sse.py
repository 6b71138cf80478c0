"""Server-sent events, from bytes that come in any pieces."""

from dataclasses import dataclass

LONGEST_EVENT = 8 * 1024 * 1024


class TooLong(Exception):
    """An event that is longer than any honest one."""


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event: its type, empty if it has none, and its data, lines joined by LF."""

    kind: str
    data: bytes


class SseParser:
    """Bytes in, events out, by https://html.spec.whatwg.org/multipage/server-sent-events.html.

    Lines are split as bytes, so neither a cut character nor U+2028 can be mistaken for their end. An event that the
    stream's end cuts off is none.
    """

    def __init__(self, longest: int = LONGEST_EVENT) -> None:
        self._longest = longest
        self._line = bytearray()
        self._after_cr = False
        self._first = True
        self._kind = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """The events that end in `chunk`. Errors: TooLong."""
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r") or (self._after_cr and not chunk)
        lines = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events = []
        for line in lines[:-1]:
            self._line += line
            whole, self._line = bytes(self._line), bytearray()
            if (event := self._take(whole)) is not None:
                events.append(event)
        self._line += lines[-1]
        if self._size + len(self._line) > self._longest:
            raise TooLong(f"an event of more than {self._longest} bytes")
        return events

    def _take(self, line: bytes) -> SseEvent | None:
        if self._first:
            self._first, line = False, line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            kind, data = self._kind, self._data
            self._kind, self._data, self._size = b"", [], 0
            return SseEvent(kind.decode("utf-8", "replace"), b"\n".join(data)) if data else None
        field, _, value = line.partition(b":")  # a comment is a field without a name
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(value) + 1
            if self._size > self._longest:
                raise TooLong(f"an event of more than {self._longest} bytes")
        elif field == b"event":
            self._kind = value
        return None

"""A file that someone may change while we run."""

import asyncio
from pathlib import Path

INTERVAL = 1.0
"""Seconds between two looks: a `stat`, as the ways to be told differ by system and by how a file is replaced."""


class WatchedFile:
    """Tells of every content but the one it knows; a file that is gone, or cannot be read, is not news."""

    def __init__(self, path: Path, interval: float = INTERVAL) -> None:
        self.path = path
        self._interval = interval
        self._stamp: tuple[int, ...] = ()
        self._content = b""

    def read(self) -> bytes:
        """The content now, which is known from here on; raises OSError."""
        stamp = self._look()  # before the content, so that a change between the two is seen at the next look
        self._content = self.path.read_bytes()
        self._stamp = stamp
        return self._content

    async def changed(self) -> bytes:
        """Returns another content than the last one read as soon as there is one; it is known then."""
        while True:
            await asyncio.sleep(self._interval)
            if (content := await asyncio.to_thread(self._news)) is not None:
                return content

    def _news(self) -> bytes | None:
        before = self._content
        try:
            if self._look() == self._stamp or self.read() == before:
                return None
        except OSError:
            return None
        return self._content

    def _look(self) -> tuple[int, ...]:
        stat = self.path.stat()
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

"""Standard input and output, read and written in threads."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import BinaryIO

# Pipes may be files or terminals, which event loops cannot wait for: a thread each, and daemons, as one that is blocked
# must not keep the process.


class Reader:
    """Reads lines of at most `limit` bytes."""

    def __init__(self, source: BinaryIO, limit: int) -> None:
        self.limit = limit
        self._source = source

    def start(
        self, received: Callable[[bytes], object], too_long: Callable[[], object], ended: Callable[[], object]
    ) -> None:
        """Begins; the functions are called in the thread."""
        threading.Thread(target=self._run, args=(received, too_long, ended), daemon=True).start()

    def _run(
        self, received: Callable[[bytes], object], too_long: Callable[[], object], ended: Callable[[], object]
    ) -> None:
        try:
            while line := self._source.readline(self.limit + 1):
                if len(line) <= self.limit:
                    received(line)
                    continue
                while line and not line.endswith(b"\n"):
                    line = self._source.readline(self.limit + 1)
                too_long()
        finally:
            ended()


class Writer:
    """Writes one piece after the other."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._pieces: queue.SimpleQueue[tuple[bytes, asyncio.AbstractEventLoop, asyncio.Future[None]]]
        self._pieces = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    async def write(self, piece: bytes) -> None:
        """Returns when it is written. Raises OSError where nobody reads any more."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        self._pieces.put((piece, loop, written))
        await written

    def _run(self) -> None:
        while True:
            piece, loop, written = self._pieces.get()
            try:
                self._sink.write(piece)
                self._sink.flush()
            except OSError as error:
                loop.call_soon_threadsafe(written.set_exception, error)
                return
            loop.call_soon_threadsafe(written.set_result, None)

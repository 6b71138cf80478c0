"""The time that calls go on for a client that may come back."""

import asyncio
import contextlib
from collections.abc import Callable

from narthex_bridge.streams.stream import Stream

# What calls may add to the store while nobody reads, in events and bytes; what fits into the outbox comes on top. It is
# a small part of what is kept of a session: other streams of it should not push out what nobody has read.
AHEAD, AHEAD_BYTES = 128, 512 * 1024
CHECK_S = 1.0


class Grace:
    """Keeps the calls behind a stream going for a while although nobody reads it, for a reader that comes back."""

    def __init__(self, stream: Stream, seconds: float, give_up: Callable[[], None], over: Callable[[], None]) -> None:
        """`give_up` cancels the calls, whose answers then end the stream; `over` is told when it has ended."""
        self._stream = stream
        self._seconds = seconds
        self._give_up = give_up
        self._over = over
        self._read = self._read_size = 0
        self._until = 0.0
        self._more = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def begin(self, read: int) -> None:
        """Nobody reads here from now on; up to event `read` somebody has."""
        self._read = read
        if read >= self._stream.last:
            self._read_size = self._stream.size
        self._until = asyncio.get_running_loop().time() + self._seconds
        self._more.set()
        if self.task is None:
            self.task = asyncio.create_task(self._run())

    def end(self) -> None:
        """Somebody reads again."""
        if self.task is not None:
            self.task.cancel()
            self.task = None

    async def _run(self) -> None:
        loop, stream, given_up = asyncio.get_running_loop(), self._stream, False
        while not stream.ended:
            left = self._until - loop.time()
            if left <= 0 and not given_up:
                given_up = True
                self._give_up()
            room = AHEAD - (stream.last - self._read) if stream.size - self._read_size < AHEAD_BYTES else 0
            if given_up or stream.outbox.closed:
                await stream.advance(CHECK_S, AHEAD)
            elif room > 0:
                await stream.advance(left, room)
            else:
                self._more.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(CHECK_S, left)):
                        await self._more.wait()
        while not await stream.settle() and loop.time() < self._until:  # noqa: ASYNC110  a store tells nobody
            await asyncio.sleep(CHECK_S)
        self._over()

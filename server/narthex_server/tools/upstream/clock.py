"""The time that an upstream has for a call."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Self

from narthex_server.tools.failures import late


class Clock:
    """Raises TimeoutError in its block after `seconds`, which stand still while paused, and at `deadline` in any case.

    `deadline` is on the event loop's clock.
    """

    def __init__(self, seconds: float, deadline: float | None) -> None:
        self._left = seconds
        self._deadline = float("inf") if deadline is None else deadline
        self._timer = asyncio.timeout(None)
        self._pauses = 0
        self._end = 0.0
        self._over = False

    async def __aenter__(self) -> Self:
        await self._timer.__aenter__()
        self._go()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        await self._timer.__aexit__(kind, error, trace)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Only the deadline counts inside the block."""
        if not self._pauses:
            self._left = self._end - asyncio.get_running_loop().time()
            self._ring(self._deadline)
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._go()

    def _go(self) -> None:
        self._end = asyncio.get_running_loop().time() + self._left
        self._ring(min(self._end, self._deadline))

    def _ring(self, when: float) -> None:
        if not self._over and not self._timer.expired():
            self._timer.reschedule(None if when == float("inf") else when)


@asynccontextmanager
async def in_time(upstream: str, seconds: float, deadline: float | None, question: str = "") -> AsyncGenerator[float]:
    """The block has `seconds`, and ends at `deadline` in any case; yields how many it has. Raises DeadlineExceeded."""
    left = seconds if deadline is None else min(seconds, deadline - asyncio.get_running_loop().time())
    try:
        async with asyncio.timeout(left):
            yield left
    except TimeoutError:
        what = f"did not answer {question}".rstrip()
        raise late(upstream, f"{what} within {max(left, 0):g} s") from None

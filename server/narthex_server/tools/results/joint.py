"""One run of a call for all who make it at the same time."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from copy import copy

from narthex_server.errors import Cancelled, NarthexError, NotFound
from narthex_server.tools.log_levels import passes
from narthex_server.tools.tool import InputRequired, Log, ToolEvent, ToolResult

MAX_NEWS = 256
"""Events that wait for the first caller to take them; further ones are dropped, as no caller may hold up the others."""


class Parted(Exception):
    """What the run comes to is for its first caller alone; the others have to make the call themselves."""


class JointRun:
    """Runs a call in a task of its own, for as long as anybody waits.

    The first caller is told all that happens, those who join hear the end. Who leaves takes nothing from the others. As
    soon as the tool asks for something the run is the first caller's alone, for it is asked.
    """

    def __init__(
        self, events: AsyncGenerator[ToolEvent], keep: Callable[[ToolResult], None], over: Callable[[], None]
    ) -> None:
        """`keep` gets a result that holds for others, too: without an error, a question or a warning.

        `over` is called when the run has ended, however that was.
        """
        self._keep = keep
        self._over = over
        self._news: deque[ToolEvent] = deque()
        self._wake = asyncio.Event()
        self._waiting = 0
        self._first_left = False
        self._asked = self._warned = False
        self._shared: asyncio.Future[ToolResult] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._drive(events))
        self._task.add_done_callback(self._ended)

    @property
    def open(self) -> bool:
        """Whether one can still join."""
        return not (self._shared.done() or self._task.done())

    async def first(self, deadline: float | None) -> AsyncGenerator[ToolEvent]:
        """What happens, the end last; closing it leaves the run to those who joined. Raises TimeoutError."""
        self._waiting += 1
        try:
            while True:
                while self._news:
                    yield self._news.popleft()
                if self._task.done():
                    break
                self._wake.clear()
                async with asyncio.timeout_at(deadline):
                    await self._wake.wait()
            if (result := self._task.result()) is not None:
                yield result
        finally:
            self._first_left = True
            await self._leave()

    async def joined(self, deadline: float | None) -> ToolResult:
        """The end, for one more caller; raises what the run does, TimeoutError and Parted."""
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(self._shared)
        finally:
            await self._leave()

    async def _leave(self) -> None:
        self._waiting -= 1
        if not self._waiting and not self._task.done():
            self._part()
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _drive(self, events: AsyncGenerator[ToolEvent]) -> ToolResult | None:
        result: ToolResult | None = None
        async with aclosing(events):
            async for event in events:
                if isinstance(event, ToolResult):
                    result = event
                    continue
                if isinstance(event, InputRequired):
                    self._asked = True
                    self._part()
                    if self._first_left:
                        return None
                self._warned |= isinstance(event, Log) and passes(event.level, "warning")
                if len(self._news) < MAX_NEWS or isinstance(event, InputRequired):
                    self._news.append(event)
                    self._wake.set()
        if result is not None and not (result.is_error or result.faulted or self._asked or self._warned):
            self._keep(result)
        return result

    def _part(self) -> None:
        if not self._shared.done():
            self._shared.set_exception(Parted())
            self._shared.exception()  # which nobody may be there to hear

    def _ended(self, task: "asyncio.Task[ToolResult | None]") -> None:
        self._wake.set()
        self._over()
        if self._shared.done():
            return
        if task.cancelled() or isinstance(error := task.exception(), Cancelled | NotFound):
            self._part()  # of which another caller knows nothing
        elif error is not None:
            self._shared.set_exception(copy(error) if isinstance(error, NarthexError) else error)
            self._shared.exception()
        elif (result := task.result()) is not None:
            self._shared.set_result(result)
        else:
            self._part()

"""One call in flight on a connection."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any

import mcp_types as types

from narthex_server.tools.log_levels import DEFAULT
from narthex_server.tools.tool import CallContext, Progress, ToolEvent
from narthex_server.tools.upstream.clock import Clock

MAX_WAITING = 1000
"""Events that wait for a slow reader; later ones are dropped, the result never is."""

INPUT_TIMEOUT = 600.0
"""Seconds that an answer may take before the upstream is told that there is none."""


class Flight:
    """One call: what it has to tell, and how long it may take."""

    def __init__(self, context: CallContext, clock: Clock) -> None:
        self.context = context
        self.clock = clock
        self.level = context.mcp.log_level or DEFAULT
        self._events: deque[ToolEvent] = deque()
        self._news: asyncio.Future[None] | None = None  # whoever waits for an event
        self._ended = False
        self.over = asyncio.Event()
        self.attended = 0

    def put(self, event: ToolEvent) -> bool:
        """False if the reader is too slow for it."""
        if room := len(self._events) < MAX_WAITING:
            self._events.append(event)
            self._wake()
        return room

    def end(self, _: object = None) -> None:
        """Nothing comes after what is there."""
        self._ended = True
        self._wake()

    async def event(self) -> ToolEvent | None:
        """The next event, of which there is one reader; None at the end."""
        while not self._events:
            if self._ended:
                return None
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        return self._events.popleft()

    def on_progress(self, progress: float, total: float | None, message: str | None) -> None:
        self.put(Progress(progress, total, message or ""))

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def attend(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What `work` gives, or an error for the upstream when the call or the patience ends before; it stops then."""
        doing, ending = asyncio.create_task(work), asyncio.create_task(self.over.wait())
        self.attended += 1
        try:
            with self.clock.paused():
                await asyncio.wait({doing, ending}, timeout=INPUT_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return doing.result()
            why = "the call has ended" if ending.done() else f"there was no answer within {INPUT_TIMEOUT:g} s"
            return types.ErrorData(code=types.INTERNAL_ERROR, message=why)
        finally:
            self.attended -= 1
            doing.cancel()
            ending.cancel()
            await asyncio.gather(doing, ending, return_exceptions=True)


FLIGHT: ContextVar[Flight | None] = ContextVar("flight", default=None)
"""The call that the current task makes, or on whose stream came what it handles (over HTTP, as DECLARED)."""

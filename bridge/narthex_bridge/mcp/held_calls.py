"""Tool calls that wait for what a client without a session brings with its next request."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from narthex_bridge.protocol.events import InputRequired, ToolEvent
from narthex_bridge.protocol.failures import BackendError


@dataclass(slots=True, eq=False)
class HeldCall:
    """A call in the middle: the rest of its events, and what it waits for."""

    events: AsyncGenerator[ToolEvent, None]
    wanted: InputRequired
    expiry: asyncio.TimerHandle | None = field(default=None, init=False)


class HeldCalls:
    """Keeps calls under names that cannot be guessed; those that nobody comes back for are cancelled."""

    def __init__(self, limit: int, patience_s: float) -> None:
        self._limit = limit
        self.patience_s = patience_s
        self._calls: dict[str, HeldCall] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def put(self, call: HeldCall) -> str:
        """Keeps a call and returns its name. Raises BackendError where there are too many."""
        if len(self._calls) >= self._limit:
            raise BackendError("RESOURCE_EXHAUSTED", "Too many calls wait for input.", reason="MAX_HELD_CALLS")
        name = secrets.token_urlsafe(12)
        self._calls[name] = call
        call.expiry = asyncio.get_running_loop().call_later(self.patience_s, self._expire, name)
        return name

    def take(self, name: str) -> HeldCall | None:
        """The call, which is no longer kept; None for one that was taken or is over."""
        call = self._calls.pop(name, None)
        if call is not None and call.expiry is not None:
            call.expiry.cancel()
        return call

    async def close(self) -> None:
        """Cancels all."""
        for name in list(self._calls):
            if (call := self.take(name)) is not None:
                await call.events.aclose()
        await asyncio.gather(*self._ending)

    def _expire(self, name: str) -> None:
        if (call := self.take(name)) is not None:
            task = asyncio.create_task(_end(call))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


async def _end(call: HeldCall) -> None:
    await call.events.aclose()

"""Keeps a connection: has it made, and made again when it is lost."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from time import time

from narthex_server.errors import NarthexError, Unavailable
from narthex_server.tools.failures import down
from narthex_server.tools.server import ServerState, ServerStatus, Vitals
from narthex_server.tools.tool import CallContext
from narthex_server.tools.upstream.backoff import STABLE, pause
from narthex_server.tools.upstream.guard import Guard, Passage

_log = logging.getLogger(__name__)


class Keeper:
    """Runs `connection` again and again with growing pauses, and says how it is; on the event loop only.

    `connection` calls `ready` when it is up, and returns or raises NarthexError or OSError when it is over, with the
    reason. `hide` takes secrets out of reasons.
    """

    def __init__(
        self,
        name: str,
        scheme: str,
        connection: Callable[[], Awaitable[None]],
        tools: Callable[[], int],
        guard: Guard,
        hide: Callable[[str], str] = str,
    ) -> None:
        """`guard` stands around every call."""
        self._connection = connection
        self._tools = tools
        self._guard = guard
        self._hide = hide
        self.status = ServerStatus(name, scheme, ServerState.STOPPED)
        self._changed: Callable[[], None] = _nobody
        self._settled = asyncio.Event()
        self._again = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._current: asyncio.Future[None] | None = None
        self._protocol = ""
        self._attempts = 0  # that failed, or did not hold
        self._connections = 0  # that came up

    @property
    def up(self) -> bool:
        return self.status.state is ServerState.READY

    @property
    def vitals(self) -> Vitals:
        breaker = self._guard.breaker
        return Vitals(
            breaker=breaker.state if breaker else None,
            breaker_retry=time() + wait if breaker and (wait := breaker.retry_after) else 0.0,
            trips=breaker.trips if breaker else 0,
            reconnects=max(0, self._connections - 1),
            last_success=self._guard.last_success,
        )

    def passing(self, context: CallContext) -> AbstractContextManager[Passage]:
        """A call on the connection; raises Unavailable when none is let through."""
        return self._guard.around(self._connections, context)

    async def drain(self, grace: float) -> None:
        """Returns when no call runs, or after `grace` seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._guard.idle(), grace)

    def start(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._set(ServerState.STARTING)
        self._task = asyncio.create_task(self._keep(), name=f"upstream {self.status.name}")

    async def settled(self) -> None:
        await self._settled.wait()

    def ready(self, protocol: str = "", trouble: str = "") -> None:
        """The connection is up, or what it offers is another; `trouble` is what does not keep it from serving."""
        self._protocol = protocol
        if not self.up:
            self._connections += 1
            _log.info("upstream %s is ready with %d tools", self.status.name, self._tools())
        self._set(ServerState.READY, self._hide(trouble))
        if trouble:
            _log.warning("upstream %s %s", self.status.name, self.status.reason)
        self._settled.set()

    def reconnect(self) -> None:
        self._settled.clear()
        self._attempts = 0
        self._again.set()
        if self._current is not None:
            self._current.cancel()

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._settled.set()  # there will be no other attempt
        self._set(ServerState.STOPPED)

    def unavailable(self) -> Unavailable:
        """What a call is answered with while there is no connection."""
        return down(self.status)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        told = ""
        while True:
            self._again.clear()
            began = loop.time()
            reason = await self._attempt()
            asked = self._again.is_set()
            self._attempts = 1 if asked or loop.time() - began > STABLE else self._attempts + 1
            if asked:
                self._set(ServerState.UNHEALTHY, reason)
                continue
            delay = pause(self._attempts)
            self._set(ServerState.UNHEALTHY, reason, time() + delay)
            self._settled.set()
            level = logging.DEBUG if reason == told else logging.WARNING  # one line for one trouble
            _log.log(level, "upstream %s is down, next attempt in %.1f s: %s", self.status.name, delay, reason)
            told = reason
            with suppress(TimeoutError):
                await asyncio.wait_for(self._again.wait(), delay)

    async def _attempt(self) -> str:
        """One connection, to its end; returns the reason of that."""
        self._current = asyncio.ensure_future(self._connection())
        try:
            await asyncio.wait({self._current})
        finally:
            self._current.cancel()
            await asyncio.gather(self._current, return_exceptions=True)
        if self._current.cancelled():
            return "reconnecting as asked"
        match self._current.exception():
            case None:
                return "the connection was closed"
            case NarthexError() as error:
                return self._hide(error.message)
            case OSError() as error:
                return self._hide(str(error) or type(error).__name__)
            case error:
                name = type(error).__name__
                _log.error("upstream %s: %s: %s", self.status.name, name, self._hide(str(error)))
                return f"failed by an error of ours, {name}, which the log has"

    def _set(self, state: ServerState, reason: str = "", next_attempt: float = 0.0) -> None:
        protocol, attempts = (self._protocol, 0) if state is ServerState.READY else ("", self._attempts)
        name, scheme = self.status.name, self.status.transport
        up = int(state is ServerState.READY)
        since = self.status.since if state is self.status.state and self.status.since else time()
        self.status = ServerStatus(
            name, scheme, state, reason, self._tools(), protocol, attempts,
            connections=up, since=since, next_attempt=next_attempt,
        )  # fmt: skip
        self._changed()


def _nobody() -> None:
    pass

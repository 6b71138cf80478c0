"""The connection that one owner has to an upstream."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from narthex_server.principal import Principal
from narthex_server.tools.failures import late
from narthex_server.tools.server import ServerState, UpstreamServer
from narthex_server.tools.tool import CallContext

_OWNER = CallContext(Principal("", ""), "")
"""A connection of one owner asks not who watches on it."""


class Seat:
    """A Line; counts who uses it, so that it can go when nobody does."""

    def __init__(self, server: UpstreamServer, idle: float, leave: Callable[[], None]) -> None:
        """`leave` is called after `idle` seconds without a user."""
        self.server = server
        self._idle = idle
        self._leave = leave
        self._users = 0
        self._watched = False
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer = self._loop.call_later(idle, self._look)

    @contextmanager
    def used(self) -> Iterator["Seat"]:
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            self._last = self._loop.time()

    async def ready(self, context: CallContext) -> None:
        """Returns when it is connected, or has failed to; raises DeadlineExceeded."""
        if self.server.status.state is ServerState.READY:
            return
        try:
            async with asyncio.timeout_at(context.deadline):
                await self.server.settled()
        except TimeoutError:
            raise late(self.server.name, "did not connect within the call's time") from None

    def watch(self, uris: frozenset[str], updated: Callable[[str], None]) -> None:
        if not uris and self._watched:
            self._last = self._loop.time()
        self._watched = bool(uris)
        self.server.line(_OWNER).watch(uris, updated)

    async def watching(self) -> None:
        await self.server.settled()
        await self.server.line(_OWNER).watching()

    async def close(self) -> None:
        self._timer.cancel()
        await self.server.stop()

    def _look(self) -> None:
        """One timer for all calls: to set one anew for each would cost more than to look again now and then."""
        busy = self._users or self._watched
        left = self._idle if busy else self._last + self._idle - self._loop.time()
        if left <= 0:
            self._leave()
        else:
            self._timer = self._loop.call_later(left, self._look)

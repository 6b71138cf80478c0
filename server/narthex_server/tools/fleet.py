"""The upstreams of a catalog as they come and go: those of the configuration file, and those added beside it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, TypeVar

from narthex_server.sync.locks import UNMETERED, Locks
from narthex_server.tools.admission.pools import UpstreamPools
from narthex_server.tools.roster import Roster
from narthex_server.tools.server import ServerStatus, UpstreamServer
from narthex_server.tools.upstream.source import ServerSource

Build = Callable[[ServerSource], Awaitable[UpstreamServer]]
"""An upstream that is not started."""

_Answer = TypeVar("_Answer")


class Fleet:
    """Changes one upstream at a time and leaves the others, and their calls, alone; used on the event loop only."""

    def __init__(
        self,
        roster: Roster,
        sources: Iterable[ServerSource],
        build: Build,
        grace: float,
        pools: UpstreamPools,
        locks: Locks = UNMETERED,
    ) -> None:
        """`sources` are those that the roster has; calls of what is taken away have `grace` seconds to end.

        Calls wait for their turn at the `pools`, which are kept to what there is.
        """
        self._roster = roster
        self._file = {source.name: source for source in sources}
        self._added: set[str] = set()  # beside the file, which must not take them away
        self._build = build
        self._grace = grace
        self._pools = pools
        self._changing = locks.async_mutex("upstream_fleet")
        self._tasks: set[asyncio.Task[Any]] = set()
        for source in self._file.values():
            self._pools.open(source)

    async def add(self, source: ServerSource) -> ServerStatus:
        """Adds one that no later file takes away; returns how its first attempt went. Raises AlreadyExists."""
        server = await self._build(source)
        self._roster.insert(server)
        self._pools.open(source)
        self._added.add(source.name)
        await server.settled()
        return server.status

    async def remove(self, name: str) -> None:
        """Returns when its calls have ended, of themselves or not; raises NotFound."""
        self._added.discard(name)
        self._pools.close(name)
        await self._kept(self._roster.remove(name, self._grace))

    async def apply(self, sources: Iterable[ServerSource]) -> bool:
        """Makes the upstreams those of another file; False if it means what the last one did.

        Returns when new ones have been tried, and calls of the ones taken away have ended or their grace is over.
        """
        async with self._changing:
            before, now = self._file, {source.name: source for source in sources}
            others = [source for source in now.values() if source != before.get(source.name)]
            servers = [await self._build(source) for source in others]  # which may fail, so it comes first
            self._file = now
            self._added -= {source.name for source in others}
            present = {server.name for server in self._roster}
            for source in others:
                self._pools.open(source)
            gone = before.keys() - now.keys() - self._added
            work: list[Coroutine[Any, Any, object]] = []
            for server in servers:
                if server.name in present:
                    work.append(self._roster.replace(server, self._grace))
                else:
                    self._roster.insert(server)
                    work.append(server.settled())
            work += [self._roster.remove(name, self._grace) for name in gone & present]
            for name in gone:
                self._pools.close(name)
            self._roster.order(now)
            await self._kept(_all(work))
            return bool(others or gone) or list(before) != list(now)

    async def close(self) -> None:
        """Ends what is being changed at once; the catalog's own upstreams go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _kept(self, work: Coroutine[Any, Any, _Answer]) -> _Answer:
        """Sees it to its end even if the caller goes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)


async def _all(work: Iterable[Coroutine[Any, Any, object]]) -> None:
    # one that was removed by hand meanwhile is no trouble of the others
    await asyncio.gather(*work, return_exceptions=True)

"""The upstreams of a catalog, and how they come and go."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from narthex_server.errors import AlreadyExists, NotFound
from narthex_server.tools.server import UpstreamServer, Vitals


class Roster:
    """The upstreams by name, in the order of the configuration; used on the event loop only."""

    def __init__(self, servers: Iterable[UpstreamServer], changed: Callable[[UpstreamServer | None], None]) -> None:
        """`changed` is told which one is different, or None when others are here than before."""
        self._servers = {server.name: server for server in servers}
        self._changed = changed

    def __iter__(self) -> Iterator[UpstreamServer]:
        return iter(tuple(self._servers.values()))  # a copy, as metrics are read in another thread

    def get(self, name: str) -> UpstreamServer | None:
        return self._servers.get(name)

    def vitals(self) -> Mapping[str, Vitals]:
        """How every one has fared."""
        return {server.name: server.vitals for server in self}

    def working_directory(self, name: str) -> str:
        """The folder that the process of this upstream runs in; empty for one that is not ours, or not here."""
        known = self._servers.get(name)
        return known.status.working_directory if known is not None else ""

    async def start(self) -> None:
        """Connects all at once; returns when each is ready or has failed once."""
        for server in self:
            server.start(partial(self._changed, server))
        await asyncio.gather(*(server.settled() for server in self))

    async def stop(self) -> None:
        await asyncio.gather(*(server.stop() for server in self))

    def insert(self, server: UpstreamServer) -> None:
        """Adds one, which begins to connect; raises AlreadyExists for a taken name."""
        if server.name in self._servers:
            raise AlreadyExists(
                f"there is an upstream named {server.name!r} already; remove it or use another name",
                reason="UPSTREAM_EXISTS",
                metadata={"upstream": server.name},
            )
        self._servers[server.name] = server
        server.start(partial(self._changed, server))

    async def remove(self, name: str, grace: float = 0.0) -> None:
        """Forgets its tools at once, and stops it when its calls have ended or after `grace` s; raises NotFound."""
        server = named(name, self)
        del self._servers[name]
        self._changed(None)
        await _stop(server, grace)

    async def replace(self, server: UpstreamServer, grace: float) -> None:
        """Puts it in the place of the one of its name as soon as it is up, or has failed; that one is then removed."""
        server.start(partial(self._changed, server))
        before: UpstreamServer | None = None
        try:
            await server.settled()
            if (before := self._servers.get(server.name)) is not None:
                self._servers[server.name] = server
                self._changed(None)
        finally:
            await (_stop(server, 0) if before is None else _stop(before, grace))

    def order(self, names: Iterable[str]) -> None:
        """These come first, in this order."""
        first = {name: self._servers[name] for name in names if name in self._servers}
        self._servers = first | self._servers
        self._changed(None)


def named(name: str, servers: Iterable[UpstreamServer]) -> UpstreamServer:
    """The one of this name; raises NotFound."""
    known = {server.name: server for server in servers}
    if (server := known.get(name)) is None:
        raise NotFound(
            f"there is no upstream named {name[:200]!r}; there are: {', '.join(known) or 'none'}",
            reason="UPSTREAM_NOT_FOUND",
        )
    return server


async def _stop(server: UpstreamServer, grace: float) -> None:
    try:
        await server.drain(grace)
    finally:
        await server.stop()

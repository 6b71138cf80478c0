"""Who watches which resources."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from narthex_server.tools.offers.resources import Place
from narthex_server.tools.server import ResourceServer


@dataclass(frozen=True, slots=True)
class ListChanged:
    """Other resources or templates are listed."""


@dataclass(frozen=True, slots=True)
class ResourceUpdated:
    """This resource, or a part of it, may hold something else; the URI is the watcher's own for it."""

    uri: str


Change = ListChanged | ResourceUpdated


class Watch:
    """What has changed since its one reader last looked: a change that it has not taken yet is not told twice."""

    def __init__(self, uris: Iterable[str]) -> None:
        self.uris = frozenset(uris)
        self._changes: dict[Change, None] = {}
        self._news = asyncio.Event()

    def tell(self, change: Change) -> None:
        self._changes[change] = None
        self._news.set()

    async def changes(self) -> AsyncIterator[Change]:
        """Yields changes as they come, without an end."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._changes:
                change = next(iter(self._changes))
                del self._changes[change]
                yield change


_Watchers = dict[str, list[tuple[Watch, str]]]
"""Who watches what, by the server's own URI; beside the watch, the watcher's URI for it."""


class Watches:
    """All that is watched, each resource once at its server however many watch it."""

    def __init__(self, places: Callable[[str], Iterable[Place]]) -> None:
        """`places` says where a resource is; it may answer differently after each `refresh`."""
        self._places = places
        self._servers: tuple[ResourceServer, ...] = ()
        self._watches: dict[Watch, None] = {}
        self._watchers: dict[ResourceServer, _Watchers] = {}

    @contextmanager
    def open(self, uris: Iterable[str]) -> Iterator[Watch]:
        """Watches these, and the list, inside the block."""
        watch = Watch(uris)
        self._watches[watch] = None
        self._arrange()
        try:
            yield watch
        finally:
            del self._watches[watch]
            self._arrange()

    async def ready(self, watch: Watch) -> None:
        """Returns when the servers of all its resources watch them, or cannot for now."""
        servers = {place.server for uri in watch.uris for place in self._places(uri)}
        await asyncio.gather(*(server.watching() for server in servers))

    def refresh(self, servers: Iterable[ResourceServer], listed: bool) -> None:
        """The servers, or what they have, are others; `listed`: also for who only reads the list."""
        self._servers = tuple(servers)
        self._arrange()
        for watch in self._watches if listed else ():
            watch.tell(ListChanged())

    def _arrange(self) -> None:
        watchers: defaultdict[ResourceServer, _Watchers] = defaultdict(lambda: defaultdict(list))
        for watch in self._watches:
            for uri in watch.uris:
                for place in self._places(uri):
                    watchers[place.server][place.uri].append((watch, uri))
        self._watchers = dict(watchers)
        for server in self._servers:
            server.watch(frozenset(self._watchers.get(server, ())), partial(self._updated, server))

    def _updated(self, server: ResourceServer, uri: str) -> None:
        for watched, watchers in self._watchers.get(server, {}).items():
            if uri == watched or uri.startswith(watched if watched.endswith("/") else f"{watched}/"):
                for watch, own in watchers:
                    watch.tell(ResourceUpdated(own))

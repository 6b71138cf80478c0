"""Who watches which resources."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from narthex_server.errors import NarthexError, ResourceExhausted
from narthex_server.principal import Principal
from narthex_server.tools.offers.sight import Sight
from narthex_server.tools.server import Line
from narthex_server.tools.tool import CallContext

MOST_OF_CALLER = 4000
"""Resources that one caller may watch in all: whenever one begins or ends, all are looked at."""


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

    def __init__(self, uris: Iterable[str], context: CallContext, version: int) -> None:
        """`context` says who watches, `version` which list of resources it knows."""
        self.uris = frozenset(uris)
        self.context = context
        self.version = version
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
    """All that is watched, each resource once on each connection to its server however many watch it."""

    def __init__(self, sight: Callable[[Principal], Sight], version: Callable[[Principal], int]) -> None:
        """`sight` says what a caller has, and `version` which list of resources that is, until the next `refresh`."""
        self._sight = sight
        self._version = version
        self._watches: dict[Watch, None] = {}
        self._watchers: dict[Line, _Watchers] = {}

    @contextmanager
    def open(self, uris: Iterable[str], context: CallContext) -> Iterator[Watch]:
        """Watches these, and the list, inside the block; raises ResourceExhausted where that is too many, or needs a
        connection more than there may be."""
        watch = Watch(uris, context, self._version(context.principal))
        self._check(watch)
        for _ in self._lines(watch):
            pass
        self._watches[watch] = None
        self._arrange()
        try:
            yield watch
        finally:
            del self._watches[watch]
            self._arrange()

    async def ready(self, watch: Watch) -> None:
        """Returns when the servers of all its resources watch them, or cannot for now."""
        await asyncio.gather(*(line.watching() for line in {line for _, _, line in self._lines(watch)}))

    def refresh(self) -> None:
        """The servers, or what they have, are others; told also to who only reads the list, if its own list changed."""
        self._arrange()
        for watch in self._watches:
            if (version := self._version(watch.context.principal)) != watch.version:
                watch.version = version
                watch.tell(ListChanged())

    def _check(self, watch: Watch) -> None:
        caller = watch.context.principal
        others = (one for one in self._watches if one.context.principal.name == caller.name)
        mine = sum(len(one.uris) for one in others if one.context.principal.tenant == caller.tenant)
        if watch.uris and mine + len(watch.uris) > MOST_OF_CALLER:
            raise ResourceExhausted(
                f"the caller watches {mine} resources, and may watch {MOST_OF_CALLER} in all", reason="TOO_MANY_WATCHED"
            )

    def _lines(self, watch: Watch) -> Iterator[tuple[str, str, Line]]:
        """The watcher's and the server's own URI, and the connection, of all that it watches."""
        sight = self._sight(watch.context.principal)
        for uri in watch.uris:
            for place in sight.places(uri):
                yield uri, place.uri, place.server.line(watch.context)

    def _arrange(self) -> None:
        watchers: defaultdict[Line, _Watchers] = defaultdict(lambda: defaultdict(list))
        for watch in self._watches:
            with suppress(NarthexError):  # no connection to be had now: the next change brings another attempt
                for uri, own, line in self._lines(watch):
                    watchers[line][own].append((watch, uri))
        left = self._watchers.keys() - watchers.keys()
        self._watchers = dict(watchers)
        for line in left:
            line.watch(frozenset(), _nobody)
        for line, uris in self._watchers.items():
            line.watch(frozenset(uris), partial(self._updated, line))

    def _updated(self, line: Line, uri: str) -> None:
        for watched, watchers in self._watchers.get(line, {}).items():
            if uri == watched or uri.startswith(watched if watched.endswith("/") else f"{watched}/"):
                for watch, own in watchers:
                    watch.tell(ResourceUpdated(own))


def _nobody(uri: str) -> None:
    pass

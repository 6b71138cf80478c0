"""The resources that another narthex is to tell us of, on whatever connection there is."""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import aclosing

from narthex.v1 import tool_pb2 as wire

from narthex_server.cascade.wire import Wire
from narthex_server.errors import NarthexError

PAUSE = 1.0, 3.0
"""Seconds, at least and at most, before a stream that ended is opened again."""

_log = logging.getLogger(__name__)


class Watched:
    """A set, and a stream that is about it; after a time without one each of the set may hold something else."""

    def __init__(self, name: str, limit: float) -> None:
        """`limit` is how many seconds the other server may take to begin."""
        self._name = name
        self._limit = limit
        self._wanted: frozenset[str] = frozenset()
        self._updated: Callable[[str], None] = _nobody
        self._news = asyncio.Event()
        self._done = asyncio.Event()
        self._done.set()
        self._connected = self._unheard = False

    def want(self, uris: frozenset[str], updated: Callable[[str], None]) -> None:
        self._updated = updated
        if uris != self._wanted:
            self._wanted = uris
            self._news.set()
            if self._connected:
                self._done.clear()

    async def settled(self) -> None:
        await self._done.wait()

    async def run(self, other: Wire) -> None:
        """Watches over this connection until it is cancelled."""
        self._connected = True
        stream: asyncio.Task[None] | None = None
        try:
            while True:
                self._news.clear()
                begun = asyncio.Event()
                before, stream = stream, asyncio.create_task(self._follow(other, self._wanted, begun))
                stream.add_done_callback(lambda _, begun=begun: begun.set())  # type: ignore[misc]
                await begun.wait()
                await _ended(before)  # not sooner, so that nothing is missed
                if self._unheard and not stream.done():
                    self._unheard = False
                    for uri in self._wanted:
                        self._updated(uri)
                if not self._news.is_set():
                    self._done.set()
                news = asyncio.create_task(self._news.wait())
                await asyncio.wait({news, stream}, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                if stream.done() and not self._news.is_set():
                    self._unheard = True
                    await asyncio.sleep(random.uniform(*PAUSE))
        finally:
            self._connected, self._unheard = False, True
            self._done.set()
            await _ended(stream)

    async def _follow(self, other: Wire, uris: frozenset[str], begun: asyncio.Event) -> None:
        if not uris:
            begun.set()
            await asyncio.Event().wait()
        request = wire.WatchResourcesRequest(uris=sorted(uris))
        try:
            async with (
                asyncio.timeout(self._limit) as patience,
                aclosing(other.stream(other.tools.WatchResources, request, other.metadata())) as changes,
            ):
                async for change in changes:
                    patience.reschedule(None)
                    begun.set()
                    if change.WhichOneof("change") == "updated_uri":
                        self._updated(change.updated_uri)
        except TimeoutError:
            _log.warning("upstream %s does not begin to tell of %d resources", self._name, len(uris))
        except NarthexError as error:
            _log.debug("upstream %s tells of %d resources no longer: %s", self._name, len(uris), error.message)


async def _ended(stream: asyncio.Task[None] | None) -> None:
    if stream is not None:
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)


def _nobody(uri: str) -> None:
    pass

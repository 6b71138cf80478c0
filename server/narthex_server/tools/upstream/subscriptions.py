"""What an upstream is to tell us of, on whatever connection there is."""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import mcp_types as types
from mcp.client import Client
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from narthex_server.tools.upstream.inputs import is_lost

_log = logging.getLogger(__name__)


class Subscriptions:
    """Changes of the lists, and of the resources that are wanted.

    Servers of 2026-07-28 tell of them only on a stream that is asked for; older ones of the lists by themselves, and of
    resources that are subscribed. Either way the news come to the session's handler of messages. After a time in which
    nobody listened, `missed` is told of the lists and `updated` of each resource.
    """

    def __init__(self, name: str, limit: float, missed: Callable[[], None], updated: Callable[[str], None]) -> None:
        """`limit` is how many seconds the server may take for an answer."""
        self._name = name
        self._limit = limit
        self._missed = missed
        self._updated = updated
        self._wanted: frozenset[str] = frozenset()
        self._news = asyncio.Event()  # others are wanted
        self._done = asyncio.Event()  # as far as can be for now
        self._done.set()
        self._connected = False
        self._unheard = False  # there was a time in which nobody listened

    def want(self, uris: frozenset[str]) -> None:
        """These resources and no others."""
        if uris == self._wanted:
            return
        self._wanted = uris
        self._news.set()
        if self._connected:
            self._done.clear()

    async def settled(self) -> None:
        """Returns when all that is wanted is subscribed, or cannot be for now."""
        await self._done.wait()

    async def run(self, client: Client) -> None:
        """Does so on this connection until it is cancelled."""
        self._connected = True
        self._done.clear()
        try:
            if client.protocol_version in MODERN_PROTOCOL_VERSIONS:
                await self._listen(client)
            else:
                await self._subscribe(client)
        except MCPError as error:
            _log.debug("upstream %s: subscriptions ended: %s", self._name, error.message)
        finally:
            self._connected, self._unheard = False, True
            self._done.set()

    async def _subscribe(self, client: Client) -> None:
        offer = client.server_capabilities.resources
        held: frozenset[str] = frozenset()
        while True:
            self._news.clear()
            wanted = self._wanted if offer and offer.subscribe else frozenset()
            for uri in held - wanted:
                await self._tell(client, "resources/unsubscribe", uri)
            for uri in wanted - held:
                await self._tell(client, "resources/subscribe", uri)
            held = wanted
            self._catch_up(wanted)
            await self._next()

    async def _tell(self, client: Client, method: str, uri: str) -> None:
        request = types.Request[dict[str, Any], str](method=method, params={"uri": uri})
        try:
            async with asyncio.timeout(self._limit):
                await client.session.send_request(request, types.EmptyResult)
        except MCPError as error:
            if is_lost(error):
                raise
            _log.debug("upstream %s refuses %s of %s: %s", self._name, method, uri, error.message)
        except (TimeoutError, ValueError) as error:
            _log.warning("upstream %s does not answer %s: %s", self._name, method, type(error).__name__)

    async def _listen(self, client: Client) -> None:
        """Holds one stream; for other resources a new one is opened before the old one is closed."""
        lists = _lists(client.server_capabilities)
        offer = client.server_capabilities.resources
        stream: asyncio.Task[bool] | None = None
        lost = False
        try:
            while True:
                self._news.clear()
                wanted = self._wanted if offer and offer.subscribe else frozenset()
                old, opened = stream, asyncio.Event()
                stream = asyncio.create_task(_follow(client, lists, wanted, opened))
                stream.add_done_callback(lambda _, opened=opened: opened.set())  # type: ignore[misc]
                await opened.wait()
                await _ended(old)
                if not stream.done():
                    self._catch_up(wanted)
                    if lost:
                        self._missed()
                await self._next(stream)
                if lost := stream.done():
                    if not stream.result():
                        return
                    self._unheard = True
                    await asyncio.sleep(random.uniform(1, 3))
        finally:
            await _ended(stream)

    def _catch_up(self, wanted: frozenset[str]) -> None:
        unheard, self._unheard = self._unheard, False
        for uri in wanted if unheard else ():
            self._updated(uri)

    async def _next(self, *streams: asyncio.Task[bool]) -> None:
        """Returns when others are wanted, or a stream has ended."""
        if not self._news.is_set():
            self._done.set()
        news = asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait({news, *streams}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()


async def _follow(client: Client, lists: dict[str, bool], uris: frozenset[str], opened: asyncio.Event) -> bool:
    """Keeps a stream flowing until it ends; returns whether another one may be had."""
    if not uris and not any(lists.values()):
        opened.set()
        await asyncio.Event().wait()
    with suppress(SubscriptionLost):
        try:
            async with client.listen(**lists, resource_subscriptions=sorted(uris)) as events:
                opened.set()
                async for _ in events:  # each comes as a message as well
                    pass
        except (MCPError, TimeoutError):
            return False
    return True


async def _ended(stream: asyncio.Task[bool] | None) -> None:
    if stream is not None:
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)


def _lists(offers: types.ServerCapabilities) -> dict[str, bool]:
    """Which lists a server says that it tells changes of, as `listen` takes them."""
    return {
        "tools_list_changed": bool(offers.tools and offers.tools.list_changed),
        "prompts_list_changed": bool(offers.prompts and offers.prompts.list_changed),
        "resources_list_changed": bool(offers.resources and offers.resources.list_changed),
    }

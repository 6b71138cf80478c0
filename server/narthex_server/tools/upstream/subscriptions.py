"""What an upstream is to tell us of, on whatever connection there is."""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import mcp_types as types
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.exceptions import MCPError

from narthex_server.tools.upstream.client import Client

PAUSE = 1.0, 3.0
"""Seconds, at least and at most, before a stream that ended is opened again."""

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
            if client.is_modern:
                async with asyncio.TaskGroup() as streams:
                    streams.create_task(self._listen_for_lists(client))
                    streams.create_task(self._listen_for_resources(client))
            else:
                await self._subscribe(client)
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
            _log.debug("upstream %s refuses %s of %s: %s", self._name, method, uri, error.message)
        except (TimeoutError, ValueError) as error:
            _log.warning("upstream %s does not answer %s: %s", self._name, method, type(error).__name__)

    async def _listen_for_lists(self, client: Client) -> None:
        offers = client.server_capabilities
        opened = _nothing
        while await _follow(
            client,
            opened,
            tools_list_changed=bool(offers.tools and offers.tools.list_changed),
            prompts_list_changed=bool(offers.prompts and offers.prompts.list_changed),
            resources_list_changed=bool(offers.resources and offers.resources.list_changed),
        ):
            await asyncio.sleep(random.uniform(*PAUSE))
            opened = self._missed

    async def _listen_for_resources(self, client: Client) -> None:
        """Holds one stream; for other resources a new one is opened before the old one is closed."""
        offer = client.server_capabilities.resources
        stream: asyncio.Task[bool] | None = None
        try:
            while True:
                self._news.clear()
                wanted = self._wanted if offer and offer.subscribe else frozenset()
                opened = asyncio.Event()
                new = asyncio.create_task(_follow(client, opened.set, resource_subscriptions=sorted(wanted)))
                new.add_done_callback(lambda _, opened=opened: opened.set())  # type: ignore[misc]
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._limit):
                        await opened.wait()
                if new.done() and not new.result():
                    _log.warning("upstream %s will not tell of %d resources", self._name, len(wanted))
                else:
                    await _ended(stream)
                    stream = new
                    self._catch_up(wanted)
                await self._next(stream)
                if stream is not None and stream.done():
                    self._unheard = True
                    await asyncio.sleep(random.uniform(*PAUSE))
        finally:
            await _ended(stream)

    def _catch_up(self, wanted: frozenset[str]) -> None:
        unheard, self._unheard = self._unheard, False
        for uri in wanted if unheard else ():
            self._updated(uri)

    async def _next(self, stream: asyncio.Task[bool] | None = None) -> None:
        """Returns when others are wanted, or the stream has ended."""
        if not self._news.is_set():
            self._done.set()
        news = asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait({news, stream} if stream else {news}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()


async def _follow(client: Client, opened: Callable[[], None], **wanted: Any) -> bool:
    """Keeps a stream flowing until it ends; returns whether another one may be had."""
    if not any(wanted.values()):
        opened()
        await asyncio.Event().wait()
    try:
        async with client.listen(**wanted) as events:
            opened()
            async for _ in events:  # each comes as a message as well
                pass
    except SubscriptionLost:
        return True
    except (MCPError, TimeoutError):
        return False
    return True


async def _ended(stream: asyncio.Task[bool] | None) -> None:
    if stream is not None:
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)


def _nothing() -> None:
    pass

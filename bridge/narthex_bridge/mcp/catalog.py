"""The server's tools, resources and prompts, kept ready for every tenant whose changes the server tells."""

import asyncio
import contextlib
from collections.abc import Mapping

from narthex_bridge.caller import Caller
from narthex_bridge.mcp.changes import Changes
from narthex_bridge.mcp.shelf import Shelf
from narthex_bridge.protocol.eras import Era
from narthex_bridge.protocol.headers import Path
from narthex_bridge.protocol.listing import page
from narthex_bridge.protocol.seal import Seal
from narthex_bridge.server.backend import Backend

MAX_TENANTS = 1000
"""Tenants whose lists are kept and whose changes are followed; of more the one that was longest silent makes room."""

FOLLOWED_S = 2.0


class Catalog:
    """Pages of lists as JSON; tells `changes` whenever a tenant's may be different."""

    def __init__(self, backend: Backend, changes: Changes, seal: Seal) -> None:
        self._backend = backend
        self._changes = changes
        self._seal = seal
        self._shelves: dict[str, Shelf] = {}
        self._crowded = False
        self._leaving: set[asyncio.Task[None]] = set()

    def follow(self, tenant: str) -> None:
        """From now on the tenant's changes are told."""
        self._shelf(tenant)

    async def followed(self, tenant: str) -> None:
        """Returns as soon as it is known whether the server says when the tenant's lists change."""
        await self._shelf(tenant).followed.wait()

    async def page(self, kind: str, caller: Caller, request_id: str, cursor: str, era: Era) -> bytes:
        """The result of a list request. Raises BackendError, and RpcError for a cursor that is not ours."""
        shelf = await self._ready(caller.tenant)
        return await shelf.page(kind, caller, request_id, cursor, era)

    async def all_tools(self, caller: Caller, request_id: str, era: Era) -> bytes:
        """Every page in one. Raises BackendError."""
        return page("tools", await self._shelf(caller.tenant).all("tools", caller, request_id), "", era)

    async def mirrored(self, caller: Caller, request_id: str, tool: str) -> Mapping[Path, str]:
        """The parameters of a tool that have to be in headers too. Raises BackendError."""
        shelf = await self._ready(caller.tenant)
        return await shelf.mirrored(caller, request_id, tool)

    async def close(self) -> None:
        for shelf in self._shelves.values():
            self._leave(shelf)
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def _ready(self, tenant: str) -> Shelf:
        shelf = self._shelf(tenant)
        if not shelf.followed.is_set():
            # What is listed before the server says which version it is would be told to have changed at once.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(shelf.followed.wait(), FOLLOWED_S)
        return shelf

    def _shelf(self, tenant: str) -> Shelf:
        shelf = self._shelves.pop(tenant, None)
        if shelf is None:
            if len(self._shelves) >= MAX_TENANTS:
                self._crowded = True
                self._leave(self._shelves.pop(next(iter(self._shelves))))
            shelf = Shelf(tenant, self._backend, self._changes, self._seal, unsure=self._crowded)
        self._shelves[tenant] = shelf  # at the end, as the latest
        return shelf

    def _leave(self, shelf: Shelf) -> None:
        task = asyncio.create_task(shelf.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

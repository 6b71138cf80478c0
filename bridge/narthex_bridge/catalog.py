"""The server's tools, kept ready per caller for as long as the server's change stream says that they still hold."""

from collections.abc import Callable

from narthex_bridge.backend import Backend
from narthex_bridge.caller import Caller
from narthex_bridge.protocol.eras import Era
from narthex_bridge.protocol.tools import page

MAX_PAGES = 1024


class Catalog:
    """Pages of tools/list as JSON; calls `changed` whenever the tools may be different."""

    def __init__(self, backend: Backend, changed: Callable[[], None]) -> None:
        self._backend = backend
        self._changed = changed
        self._pages: dict[tuple[Caller, str, str], bytes] = {}
        self._watched = False
        self._generation = 0

    async def page(self, caller: Caller, request_id: str, cursor: str, era: Era) -> bytes:
        """The result of tools/list. Raises BackendError."""
        key, generation = (caller, cursor, era.version), self._generation
        if (known := self._pages.get(key)) is not None:
            return known
        tools, following = await self._backend.list_tools(caller, request_id, cursor)
        rendered = page(tools, following, era)
        # A change that came meanwhile may or may not be in this page: then it is used once and not kept.
        if self._watched and generation == self._generation and len(self._pages) < MAX_PAGES:
            self._pages[key] = rendered
        return rendered

    async def all(self, caller: Caller, request_id: str, era: Era) -> bytes:
        """Every page in one. Raises BackendError."""
        tools, following = await self._backend.list_tools(caller, request_id, "")
        while following:
            more, following = await self._backend.list_tools(caller, request_id, following)
            tools += more
        return page(tools, "", era)

    async def watch(self) -> None:
        """Follows the server for ever: forgets pages when they change, or when the server can no longer say so."""
        async for present in self._backend.watch():
            self._watched = present
            self._generation += 1
            self._pages.clear()
            if present:  # also the first time: what was listed before may be old
                self._changed()

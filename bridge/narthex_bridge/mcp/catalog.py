"""The server's tools, resources and prompts, kept ready per caller for as long as the server's change stream says that
they still hold."""

import asyncio
from collections.abc import Mapping

from narthex_bridge.caller import Caller
from narthex_bridge.mcp.changes import Changes
from narthex_bridge.protocol import headers
from narthex_bridge.protocol.eras import Era
from narthex_bridge.protocol.events import Listed, Tool, Versions
from narthex_bridge.protocol.headers import Path
from narthex_bridge.protocol.listing import page
from narthex_bridge.protocol.params import invalid
from narthex_bridge.protocol.seal import Seal
from narthex_bridge.server.backend import Backend

MAX_PAGES = 1024
MAX_CURSOR_AGE_S = 86_400
_LISTS = {"tools": ("tools",), "resources": ("resources", "templates"), "prompts": ("prompts",)}

Mirrored = Mapping[str, Mapping[Path, str]]


class Catalog:
    """Pages of lists as JSON; tells `changes` whenever they may be different.

    `followed` is set as soon as it is known whether the server says when they are.
    """

    def __init__(self, backend: Backend, changes: Changes, seal: Seal) -> None:
        self.followed = asyncio.Event()
        self._backend = backend
        self._changes = changes
        self._seal = seal
        self._pages: dict[tuple[str, Caller, str, str], bytes] = {}
        self._mirrored: dict[Caller, Mirrored] = {}
        self._versions: Versions | None = None
        self._unsure: set[str] = set()  # kinds that clients may hold an old list of, while nothing is known of changes
        self._generation = 0

    async def page(self, kind: str, caller: Caller, request_id: str, cursor: str, era: Era) -> bytes:
        """The result of a list request. Raises BackendError, and RpcError for a cursor that is not ours."""
        key, generation = (kind, caller, cursor, era.version), self._generation
        if (known := self._pages.get(key)) is not None:
            return known
        items, following = await self._backend.list(kind, caller, request_id, self._opened(kind, caller, cursor))
        rendered = page(kind, items, self._closed(kind, caller, following), era)
        # A change that came meanwhile may or may not be in this page: then it is used once and not kept.
        if self._versions and generation == self._generation and len(self._pages) < MAX_PAGES:
            self._pages[key] = rendered
        elif not self._versions:
            self._unsure.add(kind)
        return rendered

    async def all_tools(self, caller: Caller, request_id: str, era: Era) -> bytes:
        """Every page in one. Raises BackendError."""
        return page("tools", await self._all("tools", caller, request_id), "", era)

    async def mirrored(self, caller: Caller, request_id: str, tool: str) -> Mapping[Path, str]:
        """The parameters of a tool that have to be in headers too. Raises BackendError."""
        known, generation = self._mirrored.get(caller), self._generation
        if known is None:
            tools = await self._all("tools", caller, request_id)
            wanted = ((each.name, headers.mirrored(each.input_schema)) for each in tools if isinstance(each, Tool))
            known = {name: paths for name, paths in wanted if paths}
            if self._versions and generation == self._generation and len(self._mirrored) < MAX_PAGES:
                self._mirrored[caller] = known
        return known.get(tool, {})

    async def watch(self) -> None:
        """Follows the server for ever: forgets pages when they change, or when the server can no longer say so."""
        async for versions in self._backend.watch():
            before, self._versions = self._versions, versions
            self.followed.set()
            changed = [kind for kind in _LISTS if not (before and versions) or _of(before, kind) != _of(versions, kind)]
            self._generation += 1
            stale = {name for kind in changed for name in _LISTS[kind]}
            self._pages = {key: rendered for key, rendered in self._pages.items() if key[0] not in stale}
            if "tools" in changed:
                self._mirrored.clear()
            if versions is None:
                self._unsure |= stale
                continue
            for kind in changed:
                if before or not self._unsure.isdisjoint(_LISTS[kind]):
                    self._changes.tell(kind)
            self._unsure.clear()

    async def _all(self, kind: str, caller: Caller, request_id: str) -> tuple[Listed, ...]:
        items, following = await self._backend.list(kind, caller, request_id, "")
        while following:
            more, following = await self._backend.list(kind, caller, request_id, following)
            items += more
        return items

    def _closed(self, kind: str, caller: Caller, cursor: str) -> str:
        return self._seal.close(_purpose(kind, caller), cursor.encode(), MAX_CURSOR_AGE_S) if cursor else ""

    def _opened(self, kind: str, caller: Caller, cursor: str) -> str:
        if not cursor:
            return ""
        if (content := self._seal.open(_purpose(kind, caller), cursor)) is None:
            raise invalid('"cursor" is not one that this server gave, or is too old; start again without one.')
        return content.decode()


def _purpose(kind: str, caller: Caller) -> str:
    return f"cursor {kind} {caller.assertion}"


def _of(versions: Versions, kind: str) -> int:
    count: int = getattr(versions, kind)
    return count

"""What one tenant has, kept ready per caller for as long as the server's change stream says that it still holds."""

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
_NAME = "bridge"  # as whom the changes of a tenant are followed

Mirrored = Mapping[str, Mapping[Path, str]]


class Shelf:
    """Pages of lists as JSON, followed from the beginning until `close`.

    `followed` is set as soon as it is known whether the server says when they change.
    """

    def __init__(self, tenant: str, backend: Backend, changes: Changes, seal: Seal, *, unsure: bool) -> None:
        """`unsure` where clients may hold lists of a time in which nobody followed."""
        self.followed = asyncio.Event()
        self._tenant = tenant
        self._backend = backend
        self._changes = changes
        self._seal = seal
        self._pages: dict[tuple[str, Caller, str, str], bytes] = {}
        self._mirrored: dict[Caller, Mirrored] = {}
        self._versions: Versions | None = None
        # kinds that clients may hold an old list of, while nothing is known of changes
        self._unsure = {name for names in _LISTS.values() for name in names} if unsure else set[str]()
        self._generation = 0
        self._following = asyncio.create_task(self._follow())

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

    async def all(self, kind: str, caller: Caller, request_id: str) -> tuple[Listed, ...]:
        """Every page of a list. Raises BackendError."""
        items, following = await self._backend.list(kind, caller, request_id, "")
        while following:
            more, following = await self._backend.list(kind, caller, request_id, following)
            items += more
        return items

    async def mirrored(self, caller: Caller, request_id: str, tool: str) -> Mapping[Path, str]:
        """The parameters of a tool that have to be in headers too. Raises BackendError."""
        known, generation = self._mirrored.get(caller), self._generation
        if known is None:
            tools = await self.all("tools", caller, request_id)
            wanted = ((each.name, headers.mirrored(each.input_schema)) for each in tools if isinstance(each, Tool))
            known = {name: paths for name, paths in wanted if paths}
            if self._versions and generation == self._generation and len(self._mirrored) < MAX_PAGES:
                self._mirrored[caller] = known
        return known.get(tool, {})

    async def close(self) -> None:
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)

    async def _follow(self) -> None:
        """For ever: forgets pages when they change, or when the server can no longer say so."""
        async for versions in self._backend.watch(Caller(_NAME, self._tenant)):
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
                    self._changes.tell(self._tenant, kind)
            self._unsure.clear()

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

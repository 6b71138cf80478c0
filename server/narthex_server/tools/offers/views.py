"""Which tenants see which servers."""

from collections import defaultdict
from collections.abc import Iterable
from weakref import WeakValueDictionary

from narthex_server.principal import LOCAL
from narthex_server.tools.names import Renamed
from narthex_server.tools.offers.view import Shared, Versions, View
from narthex_server.tools.server import UpstreamServer
from narthex_server.tools.tool import Tool

MAX_TENANTS = 10_000
"""Tenants whose view is known; of more the one that was met first is looked up anew when it calls."""

_Servers = tuple[UpstreamServer, ...]


class Views:
    """A view for each group of tenants that see the same servers, made when the first of the group calls."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._natives: tuple[Tool, ...] = ()
        self._servers: _Servers = ()
        self._tenants: dict[str, View] = {}
        self._views: WeakValueDictionary[_Servers, View] = WeakValueDictionary()  # for as long as they have a tenant

    def of(self, tenant: str) -> View:
        view = self._tenants.get(tenant)
        return self._met(tenant) if view is None else view

    @property
    def renamed(self) -> tuple[Renamed, ...]:
        return tuple(dict.fromkeys(one for view in self._views.values() for one in view.tools.renamed))

    def refresh(self, natives: Iterable[Tool], servers: Iterable[UpstreamServer], only: UpstreamServer | None) -> bool:
        """Our own tools or the servers are others, or there is news of `only` this one; whether any list changed."""
        self._natives = tuple(natives)
        now = tuple(servers)
        if now != self._servers or (only is not None and self._is_another(only)):
            self._servers, only = now, None
            self._regroup()
        if not self._tenants:
            self._met(LOCAL.tenant)  # so that collisions are known, and reported, before anybody calls
        changed = False
        for view in list(self._views.values()):
            if only is None or any(server.name == only.name for server in view.servers):
                before = view.versions
                view.refresh(self._natives)
                changed |= view.versions != before
        return changed

    def _met(self, tenant: str) -> View:
        if len(self._tenants) >= MAX_TENANTS:
            del self._tenants[next(iter(self._tenants))]
        seen = self._seen(tenant)
        if (view := self._views.get(seen)) is None:
            view = self._views[seen] = View(seen, self._shared, least=self._newest(self._views.values()))
            view.refresh(self._natives)
        self._tenants[tenant] = view
        return view

    def _regroup(self) -> None:
        """Every tenant goes on from the versions that it knows, and so is told of its own changes and no others'."""
        groups: defaultdict[_Servers, list[str]] = defaultdict(list)
        for tenant in self._tenants:
            groups[self._seen(tenant)].append(tenant)
        before, self._views = self._tenants, WeakValueDictionary()
        self._tenants = {}
        for seen, tenants in groups.items():
            first, *others = {before[tenant] for tenant in tenants}
            # Groups that become one have counted apart: none may take the other's number for its own.
            view = View(seen, self._shared, first, self._newest([first, *others]) if others else None)
            self._views[seen] = view
            self._tenants.update(dict.fromkeys(tenants, view))

    def _is_another(self, server: UpstreamServer) -> bool:
        """Whether it is to some tenant another one than before."""
        return server in self._servers and any(
            server.tenants.admits(tenant) and server.seen_by(tenant) not in view.servers
            for tenant, view in self._tenants.items()
        )

    def _seen(self, tenant: str) -> _Servers:
        return tuple(server.seen_by(tenant) for server in self._servers if server.tenants.admits(tenant))

    def _newest(self, views: Iterable[View]) -> Versions:
        known = [view.versions for view in views]
        return Versions(
            max((one.tools for one in known), default=0),
            max((one.resources for one in known), default=0),
            max((one.prompts for one in known), default=0),
        )

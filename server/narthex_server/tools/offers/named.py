"""What servers offer by name: tools and prompts, each under a name that means one thing."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from narthex.scopes import ALL_TOOLS, ToolScope

from narthex_server.errors import NotFound, Unavailable
from narthex_server.tools.names import aliases, distinct_name, exposed_name
from narthex_server.tools.prompt import Prompt
from narthex_server.tools.server import PromptServer, Server, ServerState, ToolServer
from narthex_server.tools.tool import Tool

Item = TypeVar("Item", Tool, Prompt)
Owner = TypeVar("Owner", ToolServer, PromptServer)


@dataclass(frozen=True, slots=True)
class Offer(Generic[Item, Owner]):
    """`item` as callers see it, and what the server that owns it calls it; our own have no server."""

    item: Item
    server: Owner | None = None
    own_name: str = ""


class NamedOffers(Generic[Item, Owner]):
    """The table from names to items.

    Our own come first, then the servers' in the order of the configuration, each in the order its server gives. A name
    that is taken already gets a short hash of its origin, so that order decides who has the plain name.
    """

    def __init__(self, kind: str, offered: Callable[[Owner], Iterable[Item]]) -> None:
        """`kind` is what errors call an item; `offered` what a server has of them."""
        self._kind = kind
        self._offered: Callable[[Owner], Iterable[Item]] = offered
        self._servers: tuple[Owner, ...] = ()
        self._offers: dict[str, Offer[Item, Owner]] = {}
        self._aliases: dict[str, str] = {}
        self._listed: tuple[Item, ...] = ()

    def listed(self, scope: ToolScope) -> tuple[Item, ...]:
        """What can be had now in this scope; what is of a server that is down is left out."""
        if scope == ALL_TOOLS:
            return self._listed
        return tuple(item for item in self._listed if scope.allows(item.name))

    def find(self, name: str, scope: ToolScope) -> Offer[Item, Owner]:
        """What this name or alias means, also while its server is down; raises NotFound, or Unavailable if that may be.

        What is outside the scope cannot be told from what is not there. A server that never came up has nothing that
        is known by name, yet "down" is the truth and "not found" is not.
        """
        offer = self._offers.get(self._aliases.get(name, name))
        if offer is not None and scope.allows(offer.item.name):
            return offer
        for server in self._servers if offer is None else ():
            own = _own_name(name, server) if server.status.state is not ServerState.READY else None
            if own is not None and scope.allows(exposed_name(server.name, own, server.prefix)):
                raise Unlisted(self._kind, name, own, server)
        raise not_found(self._kind, name)

    def refresh(self, own: Iterable[Item], servers: Iterable[Owner]) -> None:
        """Builds the table again; cheap, as it happens only when an upstream changes."""
        self._servers = tuple(servers)
        offers: dict[str, Offer[Item, Owner]] = {item.name: Offer(item) for item in own}
        other: dict[str, str] = {}
        for server in self._servers:
            for item in self._offered(server):
                name = exposed_name(server.name, item.name, server.prefix)
                holder = offers.get(name)
                if holder is not None and holder.server is server and holder.own_name == item.name:
                    continue  # the server lists one twice
                if holder is not None:
                    name = distinct_name(name, server.name, item.name)
                offers[name] = Offer(
                    replace(item, name=name, server=server.name, own_name=item.name), server, item.name
                )
                for alias in aliases(server.name, item.name):
                    other.setdefault(alias, name)
        self._offers = offers
        self._aliases = {alias: name for alias, name in other.items() if alias not in offers}
        self._listed = tuple(
            offer.item
            for offer in offers.values()
            if offer.server is None or offer.server.status.state is ServerState.READY
        )


class Unlisted(Unavailable):
    """A name that only a server can have that is down, and has not listed what it has: its `server` and `own_name`."""

    def __init__(self, kind: str, name: str, own_name: str, server: Server) -> None:
        super().__init__(
            f"{kind} {name!r} cannot be reached: upstream {server.name!r} is {server.status.state.value}"
            + (f": {server.status.reason}" if server.status.reason else ""),
            reason="UPSTREAM_UNAVAILABLE",
            metadata={"upstream": server.name},
        )
        self.server = server.name
        self.own_name = own_name
        self.name = exposed_name(server.name, own_name, server.prefix)


def not_found(kind: str, name: str) -> NotFound:
    """What is said of a name that there is not, at least for this caller."""
    return NotFound(
        f"there is no {kind} named {name[:200]!r}",
        reason=f"{kind.upper()}_NOT_FOUND",
        metadata={kind: name[:200]},
    )


def _own_name(name: str, server: Server) -> str | None:
    """What the server would call the item of this name or alias; None for a name that cannot be one of its own."""
    heads = [exposed_name(server.name, ""), *aliases(server.name, "")]
    if server.prefix:
        heads.append(exposed_name(server.name, "", server.prefix))
    return next((name.removeprefix(head) for head in heads if name.startswith(head)), None)

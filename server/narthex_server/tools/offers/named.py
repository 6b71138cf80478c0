"""What servers offer by name: tools and prompts, each under a name that means one thing."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from narthex.scopes import ALL_TOOLS, ToolScope

from narthex_server.errors import NotFound, Unavailable
from narthex_server.tools.failures import reason_down
from narthex_server.tools.lookalikes import skeleton
from narthex_server.tools.names import Renamed, RenameReason, aliases, distinct_name, exposed_name, plain_name
from narthex_server.tools.once import Once
from narthex_server.tools.presentation import Presentation
from narthex_server.tools.prompt import Prompt
from narthex_server.tools.server import PromptServer, Server, ServerState, ToolServer
from narthex_server.tools.tool import Tool

Item = TypeVar("Item", Tool, Prompt)
Owner = TypeVar("Owner", ToolServer, PromptServer)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offer(Generic[Item, Owner]):
    """`item` as callers see it, and what the server that owns it calls it; our own have no server."""

    item: Item
    server: Owner | None = None
    own_name: str = ""


class NamedOffers(Generic[Item, Owner]):
    """The table from names to items.

    Our own come first, then the servers' in the order of the configuration, each in the order its server gives. A name
    that is taken already gets a short hash of its origin, so that order decides who has the plain name; so does a name
    that a server makes up itself and that begins as those of another server do.
    """

    def __init__(
        self,
        kind: str,
        offered: Callable[[Owner], Iterable[Item]],
        presented: Callable[[Owner], Presentation] = lambda server: server.presentation,
        told: Once | None = None,
    ) -> None:
        """`kind` is what errors call an item; `offered` what a server has, and `presented` how it is named."""
        self._kind = kind
        self._offered: Callable[[Owner], Iterable[Item]] = offered
        self._presented: Callable[[Owner], Presentation] = presented
        self._servers: tuple[Owner, ...] = ()
        self._offers: dict[str, Offer[Item, Owner]] = {}
        self._aliases: dict[str, str] = {}
        self._listed: tuple[Item, ...] = ()
        self._renamed: tuple[Renamed, ...] = ()
        self._told = told or Once()

    @property
    def renamed(self) -> tuple[Renamed, ...]:
        """What is not called what it would be, and what looks like something else; each is logged once."""
        return self._renamed

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
            own = self._own_name(name, server) if server.status.state is not ServerState.READY else None
            if own is not None and scope.allows(exposed := exposed_name(server.name, own, self._presented(server))):
                raise Unlisted(self._kind, name, exposed, own, server)
        raise not_found(self._kind, name)

    def refresh(self, own: Iterable[Item], servers: Iterable[Owner]) -> None:
        """Builds the table again; cheap, as it happens only when an upstream changes."""
        self._servers = tuple(servers)
        offers: dict[str, Offer[Item, Owner]] = {item.name: Offer(item) for item in own}
        other: dict[str, str] = {}
        renamed: list[Renamed] = []
        seen = {skeleton(name): name for name in offers}
        for server in self._servers:
            for item in self._offered(server):
                name, reason, holder = self._named(server, item, offers)
                if not name:
                    continue
                offers[name] = Offer(
                    replace(item, name=name, server=server.name, own_name=item.name), server, item.name
                )
                for alias in aliases(server.name, item.name):
                    other.setdefault(alias, name)
                if reason in (None, RenameReason.CHARACTERS):
                    look = skeleton(plain_name(server.name, item.name, self._presented(server)))
                    like = seen.setdefault(look, name)
                    if like != name and offers[like].server is not server:
                        reason, holder = RenameReason.RESEMBLES, like
                if reason is not None:
                    renamed.append(Renamed(server.name, item.name, name, reason, holder))
        self._offers = offers
        self._aliases = {alias: name for alias, name in other.items() if alias not in offers}
        self._report(tuple(renamed))
        self._listed = tuple(
            offer.item
            for offer in offers.values()
            if offer.server is None or offer.server.status.state is ServerState.READY
        )

    def _named(
        self, server: Owner, item: Item, offers: dict[str, Offer[Item, Owner]]
    ) -> tuple[str, RenameReason | None, str]:
        """The name that is free for the item, why it is not the plain one, and what it collided with.

        No name for what the server lists twice.
        """
        presentation = self._presented(server)
        plain = plain_name(server.name, item.name, presentation)
        name = exposed_name(server.name, item.name, presentation)
        reason = None if name == plain else RenameReason.LENGTH if len(plain) > len(name) else RenameReason.CHARACTERS
        holder = offers.get(name)
        if holder is not None and holder.server is server and holder.own_name == item.name:
            return "", None, ""
        taken = name if holder is not None else ""
        if taken:
            reason = RenameReason.TAKEN
        elif presentation.prefix is not None and item.name not in presentation.rename:
            heads = (f"{another.name}__" for another in self._servers if another is not server)
            if taken := next((head for head in heads if name.startswith(head)), ""):
                reason = RenameReason.RESERVED
        attempt = 0
        while taken and (attempt == 0 or name in offers):  # a server may list what looks like another's hash, too
            name = distinct_name(exposed_name(server.name, item.name, presentation), server.name, item.name, attempt)
            if (holder := offers.get(name)) and holder.server is server and holder.own_name == item.name:
                return "", None, ""
            attempt += 1
        return name, reason, taken

    def _report(self, renamed: tuple[Renamed, ...]) -> None:
        self._renamed = renamed
        for one in renamed:
            if one.reason is not RenameReason.CHARACTERS and self._told.first(one):
                why = f"{one.reason.value} {one.other}".rstrip()
                _log.warning(
                    "%s %s of upstream %s is served as %s: %s",
                    self._kind, ascii(one.own_name[:200]), one.server, one.name, why,
                )  # fmt: skip

    def _own_name(self, name: str, server: Owner) -> str | None:
        """What the server would call the item of this name or alias; None for a name that cannot be one of its own."""
        presentation = self._presented(server)
        own = next((own for own, renamed in presentation.rename.items() if renamed == name), None)
        if own is None:
            heads = [exposed_name(server.name, ""), *aliases(server.name, "")]
            if presentation.prefix:
                heads.append(exposed_name(server.name, "", Presentation(presentation.prefix)))
            own = next((name.removeprefix(head) for head in heads if name.startswith(head)), None)
        return own if own is not None and presentation.offers(own) else None


class Unlisted(Unavailable):
    """A name that only a server can have that is down, and has not listed what it has: its `server` and `own_name`."""

    def __init__(self, kind: str, name: str, exposed: str, own_name: str, server: Server) -> None:
        super().__init__(
            f"{kind} {name!r} cannot be reached: upstream {server.name!r} is {server.status.state.value}"
            + (f": {server.status.reason}" if server.status.reason else ""),
            reason=reason_down(server.status),
            metadata={"upstream": server.name},
        )
        self.server = server.name
        self.own_name = own_name
        self.name = exposed


def not_found(kind: str, name: str) -> NotFound:
    """What is said of a name that there is not, at least for this caller."""
    return NotFound(
        f"there is no {kind} named {name[:200]!r}",
        reason=f"{kind.upper()}_NOT_FOUND",
        metadata={kind: name[:200]},
    )

"""What the tenants that see the same servers can have."""

from collections.abc import Iterable
from dataclasses import dataclass

from narthex.scopes import ALL_TOOLS

from narthex_server.tools.offers.named import NamedOffers
from narthex_server.tools.offers.prompts import PromptOffers
from narthex_server.tools.offers.resources import ResourceOffers
from narthex_server.tools.server import ToolServer, UpstreamServer
from narthex_server.tools.tool import Tool


@dataclass(frozen=True, slots=True)
class Versions:
    """Of each list, and of all together; each grows whenever its list is another."""

    tools: int = 0
    resources: int = 0
    prompts: int = 0

    @property
    def catalog(self) -> int:
        return self.tools + self.resources + self.prompts


class View:
    """The tables of our own tools and of `servers`, in the order of the configuration.

    A name that two servers claim is decided among these alone: what others see has no part in it.
    """

    def __init__(
        self, servers: tuple[UpstreamServer, ...], before: "View | None" = None, least: Versions | None = None
    ):
        """Goes on from `before`, what its tenants saw until now; or with versions above `least`."""
        self.servers = servers
        self.tools: NamedOffers[Tool, ToolServer] = NamedOffers("tool", lambda server: server.tools)
        self.prompts = PromptOffers()
        self.resources = ResourceOffers()
        self._versions = least or (before.versions if before else Versions())
        self._lists: tuple[object, ...] = before._lists if before and not least else (None, None, None)

    @property
    def versions(self) -> Versions:
        return self._versions

    def refresh(self, natives: Iterable[Tool]) -> None:
        """Builds the tables again; cheap, as it happens only when a server changes."""
        self.tools.refresh(natives, self.servers)
        self.prompts.refresh(self.servers)
        self.resources.refresh(self.servers)
        before, self._lists = self._lists, (
            self.tools.listed(ALL_TOOLS), (self.resources.listed, self.resources.templates), self.prompts.all
        )  # fmt: skip
        tools, resources, prompts = (int(one != other) for one, other in zip(before, self._lists, strict=True))
        if tools or resources or prompts:
            now = self._versions
            self._versions = Versions(now.tools + tools, now.resources + resources, now.prompts + prompts)

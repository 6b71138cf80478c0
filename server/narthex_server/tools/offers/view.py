"""What the tenants that see the same servers can have."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from narthex.scopes import ALL_TOOLS

from narthex_server.tools.offers.inspection import Inspection
from narthex_server.tools.offers.named import NamedOffers
from narthex_server.tools.offers.prompts import PromptOffers
from narthex_server.tools.offers.resources import ResourceOffers
from narthex_server.tools.once import Once
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


@dataclass(frozen=True, slots=True)
class Shared:
    """What all views have in common: `finders` are our own tools for so many forwarded ones."""

    inspection: Inspection
    finders: Callable[[int], tuple[Tool, ...]] = lambda forwarded: ()
    told: Once = field(default_factory=Once)


class View:
    """The tables of our own tools and of `servers`, in the order of the configuration.

    A name that two servers claim is decided among these alone: what others see has no part in it.
    """

    def __init__(
        self,
        servers: tuple[UpstreamServer, ...],
        shared: Shared,
        before: "View | None" = None,
        least: Versions | None = None,
    ) -> None:
        """Goes on from `before`, what its tenants saw until now; or with versions above `least`."""
        self.servers = servers
        self._shared = shared
        looked = shared.inspection
        self.tools: NamedOffers[Tool, ToolServer] = NamedOffers(
            "tool", lambda server: looked.tools(server, server.tools), told=shared.told
        )
        self.prompts = PromptOffers(looked, shared.told)
        self.resources = ResourceOffers(looked)
        self._versions = least or (before.versions if before else Versions())
        self._lists: tuple[object, ...] = before._lists if before and not least else (None, None, None)

    @property
    def versions(self) -> Versions:
        return self._versions

    def refresh(self, natives: Iterable[Tool]) -> None:
        """Builds the tables again; cheap, as it happens only when a server changes."""
        finders = self._shared.finders(sum(len(server.tools) for server in self.servers))
        self.tools.refresh((*natives, *finders), self.servers)
        self.prompts.refresh(self.servers)
        self.resources.refresh(self.servers)
        before, self._lists = self._lists, (
            self.tools.listed(ALL_TOOLS), (self.resources.listed, self.resources.templates), self.prompts.all
        )  # fmt: skip
        tools, resources, prompts = (int(one != other) for one, other in zip(before, self._lists, strict=True))
        if tools or resources or prompts:
            now = self._versions
            self._versions = Versions(now.tools + tools, now.resources + resources, now.prompts + prompts)

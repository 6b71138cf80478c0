"""What one caller has of the catalog."""

from collections.abc import Mapping
from typing import TypeVar

from narthex_server.principal import Principal
from narthex_server.tools.offers.named import Offer, Unlisted, not_found
from narthex_server.tools.offers.resources import Place, resource_not_found
from narthex_server.tools.offers.view import View
from narthex_server.tools.prompt import FilledPrompt, Prompt
from narthex_server.tools.resource import Contents, Resource, ResourceTemplate
from narthex_server.tools.server import PromptServer, ToolServer
from narthex_server.tools.tool import CallContext, InputRequired, Tool
from narthex_server.tools.visibility import EVERYTHING, Visibility

_Item = TypeVar("_Item", Tool, Prompt, Resource, ResourceTemplate)


class Sight:
    """A caller's part of its tenant's view: what is not shown to it cannot be told from what is not there.

    Holds for the moment: not to be kept over an await.
    """

    def __init__(self, view: View, visibility: Visibility, principal: Principal) -> None:
        self._view = view
        self._visibility = visibility
        self._principal = principal

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What can be called now; what is of an upstream that is down is left out."""
        return self._shown(self._view.tools.listed(self._principal.tools))

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """As `tools`."""
        return self._shown(self._view.prompts.list(self._principal))

    @property
    def resources(self) -> tuple[Resource, ...]:
        """As `tools`."""
        return self._shown(self._view.resources.listed)

    @property
    def templates(self) -> tuple[ResourceTemplate, ...]:
        """As `tools`, for families of resources."""
        return self._shown(self._view.resources.templates)

    def tool(self, name: str) -> Offer[Tool, ToolServer]:
        """What a name or alias means, also while its upstream is down; raises NotFound, or Unavailable if it may be."""
        try:
            offer = self._view.tools.find(name, self._principal.tools)
        except Unlisted as error:
            if self._shows(Tool(error.name, "", "", b"", server=error.server, own_name=error.own_name)):
                raise
            raise not_found("tool", name) from None
        if not self._shows(offer.item):
            raise not_found("tool", name)
        return offer

    def prompt(self, name: str) -> tuple[PromptServer, str]:
        """The server that has this prompt, and what it calls it; raises as `tool` does."""
        try:
            shown = self._shows(self._view.prompts.get(name, self._principal))
        except Unlisted as error:
            if self._shows(Prompt(error.name, server=error.server, own_name=error.own_name)):
                raise
            raise not_found("prompt", name) from None
        if not shown:
            raise not_found("prompt", name)
        return self._view.prompts.owner(name, self._principal)

    def template(self, uri_template: str) -> Place:
        """Where a template, or one resource, is; raises NotFound."""
        place = self._view.resources.template_place(uri_template)
        if not self._readable(place):
            raise resource_not_found(uri_template)
        return place

    def places(self, uri: str) -> tuple[Place, ...]:
        """Where this resource is or may be, the likeliest first."""
        return tuple(filter(self._readable, self._view.resources.places(uri)))

    async def read(self, uri: str, server: str, context: CallContext) -> Contents | InputRequired:
        """As ResourceOffers.read."""
        return await self._view.resources.read(uri, server, context, self._readable)

    async def fill(self, name: str, arguments: Mapping[str, str], context: CallContext) -> FilledPrompt | InputRequired:
        """As PromptOffers.fill."""
        self.prompt(name)
        return await self._view.prompts.fill(name, arguments, context)

    def _readable(self, place: Place) -> bool:
        return self._shows(Resource(place.uri, "", server=place.server.name))

    def _shows(self, item: Tool | Prompt | Resource | ResourceTemplate) -> bool:
        return self._visibility.shows(item, self._principal)

    def _shown(self, items: tuple[_Item, ...]) -> tuple[_Item, ...]:
        if self._visibility is EVERYTHING:
            return items
        return tuple(item for item in items if self._shows(item))

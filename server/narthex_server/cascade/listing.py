"""What another narthex offers, as it was last listed."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from narthex.v1 import tool_pb2 as wire

from narthex_server.cascade import convert
from narthex_server.cascade.wire import Wire
from narthex_server.errors import Unavailable
from narthex_server.tools.prompt import Prompt
from narthex_server.tools.resource import Resource, ResourceTemplate
from narthex_server.tools.search.searching import CALL, SEARCH
from narthex_server.tools.tool import Tool

MAX_PAGES = 100


@dataclass(frozen=True, slots=True)
class Listing:
    """Under the other server's names; `instances` are the servers that calls of its tools may reach.

    Without its tools that search and call others: a call by them would pass our rules under their name.
    """

    tools: tuple[Tool, ...] = ()
    resources: tuple[Resource, ...] = ()
    templates: tuple[ResourceTemplate, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    instances: frozenset[str] = frozenset()


async def listed(other: Wire, seconds: float) -> Listing:
    """All of it now; raises NarthexError."""
    instances: set[str] = set()

    def page_of(method: Any) -> Callable[[Any], Awaitable[Any]]:
        return lambda request: other.ask(method, request, other.metadata(), seconds)

    tools: list[Tool] = []
    async for page in _pages(page_of(other.tools.ListTools), wire.ListToolsRequest):
        instances.update(page.instances)
        tools += (convert.tool(tool) for tool in page.tools if tool.server or tool.name not in (SEARCH, CALL))
    resources: list[Resource] = []
    async for found in _pages(page_of(other.tools.ListResources), wire.ListResourcesRequest):
        resources += map(convert.resource, found.resources)
    templates: list[ResourceTemplate] = []
    async for families in _pages(page_of(other.tools.ListResourceTemplates), wire.ListResourceTemplatesRequest):
        templates += map(convert.template, families.resource_templates)
    prompts: list[Prompt] = []
    async for asked in _pages(page_of(other.tools.ListPrompts), wire.ListPromptsRequest):
        prompts += map(convert.prompt, asked.prompts)
    return Listing(tuple(tools), tuple(resources), tuple(templates), tuple(prompts), frozenset(instances))


async def _pages(ask: Callable[[Any], Awaitable[Any]], request: Callable[..., Any]) -> Any:
    token = ""
    for _ in range(MAX_PAGES):
        page = await ask(request(page_token=token))
        yield page
        if not (token := page.next_page_token):
            return
    raise Unavailable(f"lists more than {MAX_PAGES} pages")

"""What an upstream offers, as it was last listed."""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, TypeVar

import mcp_types as types
from mcp.shared.exceptions import MCPError
from pydantic import TypeAdapter

from narthex_server.tools.prompt import Prompt
from narthex_server.tools.resource import Resource, ResourceTemplate
from narthex_server.tools.tool import Tool
from narthex_server.tools.upstream import answers
from narthex_server.tools.upstream.client import Client
from narthex_server.tools.upstream.convert import convert_tool
from narthex_server.tools.upstream.inputs import is_lost

MAX_PAGES = 100

_AS_IT_CAME: TypeAdapter[Any] = TypeAdapter(dict[str, Any])
_Item = TypeVar("_Item")

_log = logging.getLogger(__name__)


class Part(Enum):
    """What changes together."""

    TOOLS = auto()
    RESOURCES = auto()
    PROMPTS = auto()


@dataclass(frozen=True, slots=True)
class Listing:
    """Under the server's own names; empty where it does not declare the capability."""

    tools: tuple[Tool, ...] = ()
    resources: tuple[Resource, ...] = ()
    templates: tuple[ResourceTemplate, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    has_resources: bool = False  # perhaps none that are listed


async def listed(client: Client, name: str, limit: float, parts: Collection[Part], before: Listing) -> Listing:
    """What upstream `name` has now of `parts`, and of the others what was `before`.

    A server whose resources or prompts cannot be listed, each in a quarter of `limit` seconds, has none, as its tools
    may well work.

    Raises:
        MCPError: the connection is lost, or its tools cannot be listed.
    """
    offers = client.server_capabilities
    now = replace(before, has_resources=offers.resources is not None)
    lists = _Lists(client, name, limit / 4)
    if Part.TOOLS in parts:
        now = replace(now, tools=await _tools(client) if offers.tools else ())
    if Part.RESOURCES in parts and offers.resources:
        now = replace(
            now,
            resources=await lists.all("resources/list", "resources", answers.resource),
            templates=await lists.all("resources/templates/list", "resourceTemplates", answers.template),
        )
    if Part.PROMPTS in parts and offers.prompts:
        now = replace(now, prompts=await lists.all("prompts/list", "prompts", answers.prompt))
    return now


async def _tools(client: Client) -> tuple[Tool, ...]:
    """By way of the session, which has to know them too: it sends some of their arguments as headers."""
    tools: list[Tool] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        params = types.PaginatedRequestParams(cursor=cursor) if cursor else None
        page = await client.session.list_tools(params=params)
        tools += [convert_tool(tool) for tool in page.tools]
        cursor = page.next_cursor
        if not cursor:
            break
    return tuple(tools)


class _Lists:
    """Lists as they come, page by page."""

    def __init__(self, client: Client, name: str, limit: float) -> None:
        self._client = client
        self._name = name
        self._limit = limit

    async def all(self, method: str, key: str, convert: Callable[[answers.Raw], _Item]) -> tuple[_Item, ...]:
        try:
            async with asyncio.timeout(self._limit):
                return tuple(map(convert, await self._items(method, key)))
        except MCPError as error:
            if is_lost(error):
                raise
            _log.warning("upstream %s does not answer %s: %s", self._name, method, error.message)
        except TimeoutError:
            _log.warning("upstream %s does not answer %s within %g s", self._name, method, self._limit)
        except (KeyError, TypeError, ValueError) as error:
            _log.warning("upstream %s answered %s with what is no list: %s", self._name, method, error)
        return ()

    async def _items(self, method: str, key: str) -> list[answers.Raw]:
        found: list[answers.Raw] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            params = {"cursor": cursor} if cursor else {}
            request = types.Request[dict[str, Any], str](method=method, params=params)
            page = await self._client.session.send_request(request, _AS_IT_CAME)
            found += page[key]
            cursor = page.get("nextCursor")
            if not cursor:
                break
        return found

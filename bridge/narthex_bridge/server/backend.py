"""The server's tools, resources and prompts, seen through its public contract."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import MappingProxyType

import grpc
from narthex.v1 import tool_pb2, tool_pb2_grpc

from narthex_bridge.caller import Caller
from narthex_bridge.protocol.effects import CallTool, Complete, GetPrompt, ReadResource
from narthex_bridge.protocol.events import (
    Contents,
    InputRequired,
    Listed,
    Prompted,
    Result,
    Suggestions,
    ToolEvent,
    Versions,
)
from narthex_bridge.protocol.failures import BackendError
from narthex_bridge.protocol.jsonrpc import Answer
from narthex_bridge.server import convert
from narthex_bridge.server.connection import Connection, internal
from narthex_bridge.server.relay import Relay

logger = logging.getLogger(__name__)

WATCH_RETRY_S = (0.1, 5.0)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client can do, as MCP's capabilities (JSON, empty for nothing), and which log messages it wants, if any.

    `responses` and `state` are what it brings when it makes a call again.
    """

    capabilities: bytes = b""
    log_level: str | None = None
    responses: bytes = b""
    state: bytes = b""


class Backend:
    """ToolService over the connection; every failure of a call is a BackendError fit for clients."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tools = tool_pb2_grpc.ToolServiceStub(connection.channel)
        self._lists: Mapping[str, Callable[[Caller, str, str], Awaitable[tuple[tuple[Listed, ...], str]]]]
        self._lists = MappingProxyType(
            {
                "tools": self._list_tools,
                "resources": self._list_resources,
                "templates": self._list_templates,
                "prompts": self._list_prompts,
            }
        )
        self._relay = Relay(connection)

    async def list(self, kind: str, caller: Caller, request_id: str, cursor: str) -> tuple[tuple[Listed, ...], str]:
        """A page of what this caller may use, and the cursor of the next one (empty at the end)."""
        return await self._lists[kind](caller, request_id, cursor)

    async def upstream_tools(self, caller: Caller, request_id: str, server: str) -> frozenset[str]:
        """The names of the tools of one upstream that this caller may call; none where there is no such upstream."""
        names: set[str] = set()
        request = tool_pb2.ListToolsRequest(server=server)
        while True:
            page = await self._connection.ask(self._tools.ListTools, request, caller, request_id)
            names.update(tool.name for tool in page.tools if tool.server and tool.server == server)
            if not page.next_page_token:
                return frozenset(names)
            request = tool_pb2.ListToolsRequest(server=server, page_token=page.next_page_token)

    async def call_tool(
        self, caller: Caller, request_id: str, call: CallTool, wishes: Wishes
    ) -> AsyncGenerator[ToolEvent, None]:
        """The events of a call, the last of them its Result, or an InputRequired with a state; closing the iterator
        cancels the call at once."""
        request = tool_pb2.CallToolRequest(name=call.name, arguments=call.arguments, mcp=_context(wishes, call.meta))
        last: Result | InputRequired | None = None
        async with aclosing(self._relay.call(request, caller, request_id)) as responses:
            async for response in responses:
                event = convert.event(response)
                if isinstance(event, Result) or (isinstance(event, InputRequired) and event.state is not None):
                    last = event  # read on to the status: a call left here would count as cancelled
                elif event is not None:
                    yield event
        if last is None:
            raise internal("The tool call ended without a result", request_id)
        yield last

    async def respond(
        self, caller: Caller, request_id: str, call_id: str, answers: Iterable[tuple[str, Answer]]
    ) -> None:
        """Gives a waiting call what it asked for, by the ids of its requests."""
        responses = (
            tool_pb2.InputResponse(id=id, error=answer.error)
            if answer.error
            else tool_pb2.InputResponse(id=id, result=answer.result)
            for id, answer in answers
        )
        request = tool_pb2.RespondRequest(call_id=call_id, responses=responses)
        await self._connection.ask(self._tools.Respond, request, caller, request_id)

    async def read_resource(
        self, caller: Caller, request_id: str, effect: ReadResource, wishes: Wishes
    ) -> Contents | InputRequired:
        request = tool_pb2.ReadResourceRequest(uri=effect.uri, mcp=_context(wishes, effect.meta))
        found = await self._connection.work(self._tools.ReadResource, request, caller, request_id)
        if found.HasField("input_required"):
            return convert.input_required(found.input_required)
        return convert.contents(found)

    async def get_prompt(
        self, caller: Caller, request_id: str, effect: GetPrompt, wishes: Wishes
    ) -> Prompted | InputRequired:
        context = _context(wishes, effect.meta)
        request = tool_pb2.GetPromptRequest(name=effect.name, arguments=effect.arguments, mcp=context)
        found = await self._connection.work(self._tools.GetPrompt, request, caller, request_id)
        if found.HasField("input_required"):
            return convert.input_required(found.input_required)
        return convert.prompted(found)

    async def complete(self, caller: Caller, request_id: str, effect: Complete) -> Suggestions:
        request = tool_pb2.CompleteRequest(argument=effect.argument, value=effect.value, context=effect.context)
        if effect.prompt:
            request.prompt = effect.prompt
        else:
            request.uri_template = effect.template
        return convert.suggestions(await self._connection.ask(self._tools.Complete, request, caller, request_id))

    async def end_session(self, caller: Caller) -> None:
        """The session that this caller calls in is over; a server that cannot be told finds out by itself."""
        with contextlib.suppress(BackendError):
            await self._connection.ask(self._tools.EndSession, tool_pb2.EndSessionRequest(), caller, "")

    async def close(self) -> None:
        """Ends the streams that calls share; those in flight become UNAVAILABLE."""
        await self._relay.close()

    async def watch(self, caller: Caller) -> AsyncIterator[Versions | None]:
        """The versions of what the caller's tenant sees now and after each change, None whenever the server is lost.

        Reconnects for ever.
        """
        delay, longest = WATCH_RETRY_S
        watched = warned = False
        while True:
            call = self._tools.WatchTools(tool_pb2.WatchToolsRequest(), metadata=self._connection.metadata(caller, ""))
            try:
                async for news in call:
                    delay, watched = WATCH_RETRY_S[0], True
                    # A server before these were told apart has one version for all.
                    tools = news.tools_version or news.catalog_version
                    yield Versions(tools, news.resources_version, news.prompts_version)
            except grpc.aio.AioRpcError as error:
                # Before the first success the server is still starting; after that, each loss is told once.
                hint = self._connection.distrust(error)
                level = logging.WARNING if hint and not warned else logging.INFO if watched else logging.DEBUG
                told = (error.code().name, error.details(), hint)
                logger.log(level, "the server's catalog cannot be watched: %s %s%s", *told)
                watched, warned = False, warned or bool(hint)
            finally:
                call.cancel()
            yield None
            await asyncio.sleep(delay)
            delay = min(delay * 2, longest)

    async def watch_resource(self, caller: Caller, uri: str) -> AsyncIterator[bool]:
        """Yields True whenever the resource changes, or may have while the server was lost; reconnects for ever.

        Yields False when it is watched from now on, or cannot be for now.
        """
        delay, longest = WATCH_RETRY_S
        while True:
            request = tool_pb2.WatchResourcesRequest(uris=[uri])
            call = self._tools.WatchResources(request, metadata=self._connection.metadata(caller, ""))
            try:
                async for news in call:
                    delay = WATCH_RETRY_S[0]
                    yield news.WhichOneof("change") == "updated_uri"
            except grpc.aio.AioRpcError as error:
                logger.info("resource %s cannot be watched: %s %s", uri, error.code().name, error.details())
            finally:
                call.cancel()
            yield False
            await asyncio.sleep(delay)
            delay = min(delay * 2, longest)
            yield True

    async def _list_tools(self, caller: Caller, request_id: str, cursor: str) -> tuple[tuple[Listed, ...], str]:
        request = tool_pb2.ListToolsRequest(page_token=cursor)
        page = await self._connection.ask(self._tools.ListTools, request, caller, request_id)
        return tuple(map(convert.tool, page.tools)), page.next_page_token

    async def _list_resources(self, caller: Caller, request_id: str, cursor: str) -> tuple[tuple[Listed, ...], str]:
        request = tool_pb2.ListResourcesRequest(page_token=cursor)
        page = await self._connection.ask(self._tools.ListResources, request, caller, request_id)
        return tuple(map(convert.resource, page.resources)), page.next_page_token

    async def _list_templates(self, caller: Caller, request_id: str, cursor: str) -> tuple[tuple[Listed, ...], str]:
        request = tool_pb2.ListResourceTemplatesRequest(page_token=cursor)
        page = await self._connection.ask(self._tools.ListResourceTemplates, request, caller, request_id)
        return tuple(map(convert.template, page.resource_templates)), page.next_page_token

    async def _list_prompts(self, caller: Caller, request_id: str, cursor: str) -> tuple[tuple[Listed, ...], str]:
        request = tool_pb2.ListPromptsRequest(page_token=cursor)
        page = await self._connection.ask(self._tools.ListPrompts, request, caller, request_id)
        return tuple(map(convert.prompt, page.prompts)), page.next_page_token


def _context(wishes: Wishes, meta: bytes) -> tool_pb2.McpContext:
    return tool_pb2.McpContext(
        client_capabilities=wishes.capabilities,
        log_level=tool_pb2.LOG_LEVEL_OFF if wishes.log_level is None else convert.LEVELS[wishes.log_level],
        meta=meta,
        input_responses=wishes.responses,
        request_state=wishes.state,
    )

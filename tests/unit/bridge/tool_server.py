"""A real server of the public contract with tools made for tests."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from narthex.v1 import common_pb2, tool_pb2, tool_pb2_grpc

SCHEMA = b'{"type":"object","properties":{"text":{"type":"string"}}}'
ANY_TEXT = {"type": "object", "properties": {"said": {"type": "string"}}}


def text_result(text: str) -> tool_pb2.CallToolResponse:
    content = json.dumps([{"type": "text", "text": text}]).encode()
    return tool_pb2.CallToolResponse(result=tool_pb2.ToolResult(content=content))


def delta(text: str) -> tool_pb2.CallToolResponse:
    return tool_pb2.CallToolResponse(text_delta=common_pb2.TextDelta(text=text))


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class ToolServer(tool_pb2_grpc.ToolServiceServicer):
    """ToolService with a handful of tools; what they saw can be asked."""

    address: str = ""
    arguments: list[bytes] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    names: list[str] = field(default_factory=lambda: ["echo", "count", "deltas", "logs", "hang", "strict", "broken"])
    listed: int = 0
    page_size: int = 0
    version: int = 1
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    watching: asyncio.Event = field(default_factory=asyncio.Event)
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    contexts: list[tool_pb2.McpContext] = field(default_factory=list)
    responses: asyncio.Queue[tool_pb2.RespondRequest] = field(default_factory=asyncio.Queue)
    prompts_version: int = 1
    watched: dict[str, asyncio.Queue[str]] = field(default_factory=dict)
    resource_watched: asyncio.Event = field(default_factory=asyncio.Event)
    unwatched: asyncio.Event = field(default_factory=asyncio.Event)
    may_watch: asyncio.Event = field(default_factory=_set)  # resources; not yet, as long as it is clear
    feed: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)
    fed: int = 0
    ended: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    async def change(self, *names: str) -> None:
        async with self.changed:
            self.names, self.version = list(names), self.version + 1
            self.changed.notify_all()

    async def change_prompts(self) -> None:
        async with self.changed:
            self.prompts_version += 1
            self.changed.notify_all()

    async def ListTools(self, request: Any, context: Any) -> Any:
        self.listed += 1
        self.metadata.append(dict(context.invocation_metadata()))
        start = int(request.page_token or 0)
        end = start + self.page_size if self.page_size else len(self.names)
        tools = [
            tool_pb2.Tool(
                name=name,
                title=name.title(),
                description=f"{name} tool",
                input_schema=SCHEMA,
                output_schema=b'{"type":"object"}' if name == "count" else b"",
                annotations=b'{"readOnlyHint":true}',
            )
            for name in self.names[start:end]
        ]
        return tool_pb2.ListToolsResponse(tools=tools, next_page_token=str(end) if end < len(self.names) else "")

    async def WatchTools(self, request: Any, context: Any) -> AsyncIterator[Any]:
        seen = (0, 0)
        while True:
            async with self.changed:
                await self.changed.wait_for(lambda seen=seen: (self.version, self.prompts_version) != seen)
                seen = (self.version, self.prompts_version)
            yield tool_pb2.WatchToolsResponse(
                catalog_version=sum(seen), tools_version=seen[0], resources_version=1, prompts_version=seen[1]
            )
            self.watching.set()

    async def ListResources(self, request: Any, context: Any) -> Any:
        resource = tool_pb2.Resource(
            uri="test://a", name="a", title="A", mime_type="text/plain", size=5, icons=b'[{"src":"data:,"}]'
        )
        return tool_pb2.ListResourcesResponse(resources=[resource])

    async def ListResourceTemplates(self, request: Any, context: Any) -> Any:
        template = tool_pb2.ResourceTemplate(uri_template="test://{x}", name="any", annotations=b'{"priority":1}')
        return tool_pb2.ListResourceTemplatesResponse(resource_templates=[template])

    async def ReadResource(self, request: Any, context: Any) -> Any:
        self.contexts.append(request.mcp)
        if request.uri == "test://asks" and not request.mcp.input_responses:
            return tool_pb2.ReadResourceResponse(input_required=wanted(state=b"r1"))
        if request.uri == "test://gone":
            await refuse(
                context, code_pb2.NOT_FOUND, "RESOURCE_NOT_FOUND", "There is no such resource.", uri=request.uri
            )
        contents = [
            tool_pb2.ResourceContents(uri=request.uri, mime_type="text/plain", text="hello"),
            tool_pb2.ResourceContents(uri=request.uri, blob=b"\x00\x01"),
        ]
        return tool_pb2.ReadResourceResponse(contents=contents, ttl_ms=7)

    async def WatchResources(self, request: Any, context: Any) -> AsyncIterator[Any]:
        (uri,) = request.uris
        updates = self.watched[uri] = asyncio.Queue()
        self.resource_watched.set()
        try:
            await self.may_watch.wait()
            yield tool_pb2.WatchResourcesResponse(catalog_version=1)
            while True:
                yield tool_pb2.WatchResourcesResponse(updated_uri=await updates.get())
        finally:
            self.unwatched.set()

    async def ListPrompts(self, request: Any, context: Any) -> Any:
        argument = tool_pb2.PromptArgument(name="who", description="whom", required=True)
        return tool_pb2.ListPromptsResponse(
            prompts=[tool_pb2.Prompt(name="greet", title="Greet", arguments=[argument])]
        )

    async def GetPrompt(self, request: Any, context: Any) -> Any:
        self.contexts.append(request.mcp)
        if request.name == "asks" and not request.mcp.input_responses:
            return tool_pb2.GetPromptResponse(input_required=wanted(state=b"p1"))
        text = json.dumps({"type": "text", "text": f"Hello {request.arguments['who']}"}).encode()
        return tool_pb2.GetPromptResponse(
            description="A greeting", messages=[tool_pb2.PromptMessage(role="user", content=text)]
        )

    async def Complete(self, request: Any, context: Any) -> Any:
        where = request.prompt or request.uri_template
        return tool_pb2.CompleteResponse(values=[f"{where}/{request.value}", *request.context.values()], total=9)

    async def Respond(self, request: Any, context: Any) -> Any:
        await self.responses.put(request)
        return tool_pb2.RespondResponse()

    async def EndSession(self, request: Any, context: Any) -> Any:
        await self.ended.put(dict(context.invocation_metadata()).get("x-narthex-session", ""))
        return tool_pb2.EndSessionResponse()

    async def CallTool(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.arguments.append(request.arguments)
        self.metadata.append(dict(context.invocation_metadata()))
        self.contexts.append(request.mcp)
        match request.name:
            case "waits":  # asks for two things, and goes on when both are there
                try:
                    yield tool_pb2.CallToolResponse(input_required=wanted("c1", "name", "age"))
                    given: dict[str, Any] = {}
                    while len(given) < 2:
                        for response in (await self.responses.get()).responses:
                            given[response.id] = json.loads(response.result or response.error)
                    yield text_result(json.dumps(given, sort_keys=True))
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case "tires":  # asks, and goes on without an answer
                yield tool_pb2.CallToolResponse(input_required=wanted("c1"))
                yield delta("still here")
                await self.release.wait()
                yield text_result("never mind")
            case "asks":  # ends with what it wants, twice
                step = {b"": b"s1", b"s1": b"s2"}.get(request.mcp.request_state)
                if step:
                    yield tool_pb2.CallToolResponse(input_required=wanted(state=step))
                else:
                    yield text_result(request.mcp.input_responses.decode())
            case "needs":
                needed = '{"sampling":{}}'
                reason, text = "MISSING_CLIENT_CAPABILITY", "This needs sampling."
                await refuse(context, code_pb2.FAILED_PRECONDITION, reason, text, required_capabilities=needed)
            case "echo":
                yield text_result(json.loads(request.arguments).get("text", ""))
            case "count":
                for step in range(3):
                    yield tool_pb2.CallToolResponse(
                        progress=tool_pb2.Progress(progress=step * 50, total=100, message=f"step {step}")
                    )
                yield tool_pb2.CallToolResponse(
                    result=tool_pb2.ToolResult(content=b"[]", structured_content=b'{"n":12345678901234567890123}')
                )
            case "deltas":
                for word in ("Hello", ", ", "world"):
                    yield delta(word)
                yield text_result("Hello, world")
            case "logs":
                for level in ("DEBUG", "INFO", "ERROR"):
                    yield tool_pb2.CallToolResponse(
                        log=tool_pb2.LogMessage(
                            level=tool_pb2.LogLevel.Value(f"LOG_LEVEL_{level}"),
                            logger="t",
                            data=json.dumps(level).encode(),
                        )
                    )
                yield text_result("logged")
            case "hang":
                try:
                    yield delta("working")
                    self.hanging.set()
                    await self.release.wait()
                    yield text_result("released")
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case "feed":  # tells what it is fed with, until None
                while (text := await self.feed.get()) is not None:
                    yield delta(text)
                    self.fed += 1
                yield text_result("full")
            case "flood":  # as fast as it may, until it is released
                while not self.release.is_set():
                    yield delta("x" * 1000)
                    self.fed += 1
                    await asyncio.sleep(0)
                yield text_result(str(self.fed))
            case "strict":
                bad = error_details_pb2.BadRequest()
                bad.field_violations.add(field="arguments.text", description="is not a string")
                await refuse(context, code_pb2.INVALID_ARGUMENT, "INVALID_TOOL_ARGUMENTS", "Arguments do not fit.", bad)
            case "repeats":  # as a real server does: the message lists what the details say
                bad = error_details_pb2.BadRequest()
                bad.field_violations.add(field="zone", description="must be string, not integer")
                bad.field_violations.add(field="one", description="must be string, not integer")
                bad.field_violations.add(description="is too deep")
                text = "Arguments do not fit: zone: must be string, not integer; is too deep"
                await refuse(context, code_pb2.INVALID_ARGUMENT, "INVALID_TOOL_ARGUMENTS", text, bad)
            case "down":
                await refuse(context, code_pb2.UNAVAILABLE, "UPSTREAM_DOWN", "The upstream git is down.")
            case "broken":
                raise ValueError("secret of the server")
            case "endless":
                yield delta("and then nothing")
            case _:
                await refuse(context, code_pb2.NOT_FOUND, "TOOL_NOT_FOUND", f"There is no tool {request.name!r}.")


def wanted(call_id: str = "", *names: str, state: bytes | None = None) -> tool_pb2.InputRequired:
    """Asks for each name, or for `name` alone."""
    requests = [
        tool_pb2.InputRequest(
            id=name,
            mcp=tool_pb2.McpRequest(
                method="elicitation/create",
                params=json.dumps({"message": f"{name}?", "requestedSchema": ANY_TEXT}).encode(),
            ),
        )
        for name in names or ("name",)
    ]
    return tool_pb2.InputRequired(call_id=call_id, requests=requests, request_state=state)


async def refuse(context: Any, code: int, reason: str, text: str, *details: Any, **metadata: str) -> None:
    packed = []
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain="narthex", metadata=metadata), *details):
        wrapped = any_pb2.Any()
        wrapped.Pack(detail)
        packed.append(wrapped)
    await context.abort_with_status(rpc_status.to_status(status_pb2.Status(code=code, message=text, details=packed)))


@asynccontextmanager
async def serving() -> AsyncIterator[ToolServer]:
    """A ToolServer on a real port."""
    server, service = grpc.aio.server(), ToolServer()
    tool_pb2_grpc.add_ToolServiceServicer_to_server(service, server)
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield service
    await server.stop(0)

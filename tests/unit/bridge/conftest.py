"""A real server of the public contract with tools made for tests, and real bridges in front of it."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from hypothesis import settings
from narthex.settings import Address
from narthex.v1 import common_pb2, tool_pb2, tool_pb2_grpc
from narthex_bridge.app import Bridge
from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.main import bind, hypercorn_config
from narthex_bridge.transport.host import serve

# The same examples in every run, however slow the machine; HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("fixed", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

SCHEMA = b'{"type":"object","properties":{"text":{"type":"string"}}}'
ANY_TEXT = {"type": "object", "properties": {"said": {"type": "string"}}}
DEADLINE_S = 10.0


def text_result(text: str) -> tool_pb2.CallToolResponse:
    content = json.dumps([{"type": "text", "text": text}]).encode()
    return tool_pb2.CallToolResponse(result=tool_pb2.ToolResult(content=content))


def delta(text: str) -> tool_pb2.CallToolResponse:
    return tool_pb2.CallToolResponse(text_delta=common_pb2.TextDelta(text=text))


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
    feed: asyncio.Queue[str | None] = field(default_factory=asyncio.Queue)
    fed: int = 0

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


@pytest.fixture
async def tools() -> AsyncIterator[ToolServer]:
    server, service = grpc.aio.server(), ToolServer()
    tool_pb2_grpc.add_ToolServiceServicer_to_server(service, server)
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield service
    await server.stop(0)


def stateless(method: str, params: Any = None, id: Any = 1, meta: Any = None) -> dict[str, Any]:
    given = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        **(meta or {}),
    }
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": {**(params or {}), "_meta": given}}


def mirror(method: str, params: Any, headers: dict[str, str]) -> dict[str, str]:
    """The headers that say what the body says, and those given."""
    name = (params or {}).get("uri" if method == "resources/read" else "name")
    named = {"mcp-name": name} if isinstance(name, str) and method != "completion/complete" else {}
    return {"mcp-protocol-version": "2026-07-28", "mcp-method": method, **named, **headers}


@dataclass(frozen=True)
class ServerSentEvent:
    """One block of a stream: `data` is empty where it has none, `message` is its JSON."""

    id: str = ""
    data: str = ""
    retry: str = ""
    comment: str = ""

    @property
    def message(self) -> Any:
        return json.loads(self.data)

    @property
    def text(self) -> str:
        """Of progress its message, of a result its text."""
        message = self.message
        return message["params"]["message"] if "method" in message else message["result"]["content"][0]["text"]


class EventReader:
    """Reads a streamed answer block by block."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._lines = answer.aiter_lines()

    async def block(self) -> ServerSentEvent | None:
        """The next block; None at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(DEADLINE_S):
            async for line in self._lines:
                if not line:
                    return ServerSentEvent(**fields)
                name, _, value = line.partition(":")
                if name != "event":
                    fields[name or "comment"] = value.removeprefix(" ")
        assert not fields
        return None

    async def event(self) -> ServerSentEvent:
        """The next block with data."""
        while (block := await self.block()) is not None:
            if block.data:
                return block
        raise AssertionError("the stream has ended")

    async def farewell(self) -> ServerSentEvent:
        """The last block before the end."""
        last = None
        while (block := await self.block()) is not None:
            last = block
        assert last is not None, "the stream ended without a word"
        return last

    async def rest(self) -> list[ServerSentEvent]:
        """All blocks with data up to the end."""
        found = []
        while (block := await self.block()) is not None:
            if block.data:
                found.append(block)
        return found


@dataclass
class RunningBridge:
    """A bridge on a real port: its URL, a client for it, and the way to stop it as SIGTERM does."""

    url: str
    http: httpx.AsyncClient
    stop: Callable[[], Awaitable[None]]
    bridge: Bridge | None
    """Where it runs in this process."""

    async def rpc(self, method: str, params: Any = None, *, id: Any = 1, **headers: str) -> httpx.Response:
        message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}}
        return await self.http.post("/mcp", json=message, headers=headers)

    def stateless_request(
        self, method: str, params: Any = None, *, id: Any = 1, meta: Any = None, **headers: str
    ) -> httpx.Request:
        """A request of the version without sessions, with all that belongs to it unless it is given."""
        body = stateless(method, params, id, meta)
        return self.http.build_request("POST", "/mcp", json=body, headers=mirror(method, params, headers))

    async def stateless(self, method: str, params: Any = None, **options: Any) -> httpx.Response:
        return await self.http.send(self.stateless_request(method, params, **options))

    async def session(self, version: str = "2025-11-25", *, can: Any = None, **headers: str) -> dict[str, str]:
        """Opens a session and returns the headers that its requests need."""
        params = {"protocolVersion": version, "capabilities": can or {}, "clientInfo": {"name": "test", "version": "1"}}
        answer = await self.rpc("initialize", params, id=0, **headers)
        assert answer.status_code == 200, answer.text
        return {"mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": version, **headers}

    @asynccontextmanager
    async def calling(self, session: dict[str, str], tool: str, *, id: Any = 1) -> AsyncIterator[EventReader]:
        """The streamed answer of a tool call with progress; leaving it cuts the connection."""
        params = {"name": tool, "arguments": {}, "_meta": {"progressToken": id}}
        message = {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}
        async with self.http.stream("POST", "/mcp", json=message, headers=session) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream"), await answer.aread()
            yield EventReader(answer)

    @asynccontextmanager
    async def getting(self, session: dict[str, str], last: str | None = None) -> AsyncIterator[EventReader]:
        """The session's own stream, or any stream from an event on."""
        headers = {**session, "accept": "text/event-stream"} | ({} if last is None else {"last-event-id": last})
        async with self.http.stream("GET", "/mcp", headers=headers) as answer:
            assert answer.status_code == 200, await answer.aread()
            yield EventReader(answer)

    async def metric(self, name: str) -> float:
        """A metric of the bridge without labels."""
        text = (await self.http.get("/metrics")).text
        return float(text.partition(f"\nnarthex_bridge_{name} ")[2].partition("\n")[0])


@asynccontextmanager
async def running(config: BridgeConfig) -> AsyncIterator[RunningBridge]:
    bridge, listener = Bridge(config), bind(config.http)
    stop, ready, drained = asyncio.Event(), asyncio.Event(), []
    url = f"http://{Address(*listener.getsockname()[:2])}"

    async def until_stopped() -> None:
        ready.set()
        await stop.wait()
        drained.append(asyncio.create_task(bridge.drain()))

    serving = asyncio.create_task(serve(bridge.app, hypercorn_config(config, listener), shutdown_trigger=until_stopped))

    async def stopped() -> None:
        stop.set()
        await serving
        await drained[0]

    accept = {"accept": "application/json, text/event-stream"}
    async with httpx.AsyncClient(base_url=url, headers=accept, timeout=DEADLINE_S) as http:
        await ready.wait()
        yield RunningBridge(url, http, stopped, bridge)
    await stopped()


@dataclass
class BridgeProcess(RunningBridge):
    """A bridge as a process, whose `stop` kills it."""

    child: asyncio.subprocess.Process

    def terminate(self) -> None:
        self.child.terminate()

    async def ended(self) -> None:
        await asyncio.wait_for(self.child.communicate(), DEADLINE_S)


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[BridgeProcess]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "narthex_bridge.main", "--http", "127.0.0.1:0", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None

    async def killed() -> None:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        if child.returncode is None:
            await child.communicate()

    try:
        line = (await asyncio.wait_for(child.stdout.readline(), DEADLINE_S)).decode().strip()
        url = f"http://{line.partition('http=')[2]}"
        accept = {"accept": "application/json, text/event-stream"}
        async with httpx.AsyncClient(base_url=url, headers=accept, timeout=DEADLINE_S) as http:
            yield BridgeProcess(url, http, killed, None, child)
    finally:
        await killed()


@pytest.fixture
def bridge_process(tools: ToolServer) -> Callable[..., Any]:
    return lambda *arguments: process("--server", tools.address, *arguments)


@pytest.fixture
def config(tools: ToolServer) -> BridgeConfig:
    return BridgeConfig(http=Address("127.0.0.1", 0), server=Address.parse(tools.address), shutdown_grace=1.0)


@pytest.fixture
def start_bridge(config: BridgeConfig) -> Callable[..., Any]:
    return lambda **changes: running(replace(config, **changes))


@pytest.fixture
async def bridge(config: BridgeConfig) -> AsyncIterator[RunningBridge]:
    async with running(config) as started:
        yield started


@dataclass
class RedisServer:
    """A Redis of our own, on a socket in a folder of its own; what it holds is gone when it stops."""

    folder: Path
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/redis.sock"

    async def start(self) -> None:
        command = ("redis-server", "--port", "0", "--unixsocket", f"{self.folder}/redis.sock", "--save", "")
        self.process = await asyncio.create_subprocess_exec(
            *command, "--dir", str(self.folder), stdout=asyncio.subprocess.PIPE
        )
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            while b"eady to accept connections" not in (line := await self.process.stdout.readline()):
                assert line, "redis-server ended before it was ready"

    async def stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.communicate()


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = RedisServer(tmp_path)
    await server.start()
    yield server
    await server.stop()

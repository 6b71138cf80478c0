"""The MCP server that the conformance suites expect, over stdio or (`--http PORT`) Streamable HTTP.

It speaks every protocol version that the SDK does. Beyond what the suites need it has a call to cancel, a resource that
counts cancelled calls and a tool that touches the watched resource.
"""

import argparse
import asyncio
import base64
import json
import socket
import struct
import warnings
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import mcp_types as types
import uvicorn
from dialogue import Dialogue, InputNeeded, form, roots, sampling
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError

STEP_S = 0.05
WATCHED = "test://watched-resource"
CANCELLED = "test://cancelled-calls"


def png() -> str:
    """One red pixel."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0\xff\0\0")),
        (b"IEND", b""),
    )
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def wav() -> str:
    """Two silent samples."""
    samples = struct.pack("<hh", 0, 0)
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 16000, 2, 16)
    data = b"data" + struct.pack("<I", len(samples)) + samples
    return base64.b64encode(b"RIFF" + struct.pack("<I", 4 + len(form) + len(data)) + b"WAVE" + form + data).decode()


PIXEL = types.ImageContent(data=png(), mime_type="image/png")
SILENCE = types.AudioContent(data=wav(), mime_type="audio/wav")


def text(content: str) -> types.TextContent:
    return types.TextContent(text=content)


def embedded(uri: str, mime_type: str, content: str) -> types.EmbeddedResource:
    return types.EmbeddedResource(resource=types.TextResourceContents(uri=uri, mime_type=mime_type, text=content))


def done(*content: types.ContentBlock) -> types.CallToolResult:
    return types.CallToolResult(content=list(content))


def failed(message: str) -> types.CallToolResult:
    return types.CallToolResult(content=[text(message)], is_error=True)


@dataclass(slots=True)
class Counts:
    """What has happened in this process; list changes show in a description."""

    tools_changed: int = 0
    prompts_changed: int = 0
    cancelled: int = 0
    watched: int = 0


@dataclass(slots=True)
class Call:
    """One `tools/call` as a tool sees it."""

    ctx: ServerRequestContext
    arguments: dict[str, Any]
    dialogue: Dialogue
    counts: Counts
    bus: InMemorySubscriptionBus

    async def log(self, message: str) -> None:
        await self.ctx.session.send_log_message("info", message, related_request_id=self.ctx.request_id)


Run = Callable[[Call], Awaitable[types.CallToolResult]]


@dataclass(frozen=True, slots=True)
class FixtureTool:
    name: str
    description: str
    run: Run
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})


def answers(*content: types.ContentBlock) -> Run:
    async def run(_: Call) -> types.CallToolResult:
        return done(*content)

    return run


async def raise_error(_: Call) -> types.CallToolResult:
    return failed("This tool intentionally returns an error for testing")


async def log(call: Call) -> types.CallToolResult:
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await call.log(message)
        await asyncio.sleep(STEP_S)
    return done(text("Three log messages were sent."))


async def progress(call: Call) -> types.CallToolResult:
    for step in (0, 50, 100):
        await call.ctx.session.report_progress(step, 100)
        await asyncio.sleep(STEP_S)
    return done(text("Three progress notifications were sent."))


async def wait(call: Call) -> types.CallToolResult:
    try:
        await call.ctx.session.report_progress(0, 1, "waiting")
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        call.counts.cancelled += 1
        raise
    raise AssertionError("nothing sets the event")


RECONNECT_S = 0.5
"""Long enough that whoever stands in between may close its own stream meanwhile."""


async def reconnect(call: Call) -> types.CallToolResult:
    if call.ctx.close_sse_stream:
        await call.ctx.close_sse_stream()
    await asyncio.sleep(RECONNECT_S)
    return done(text("The stream was closed in the middle of this call."))


async def sample(call: Call) -> types.CallToolResult:
    if call.dialogue.capabilities.sampling is None:
        return failed("The client does not sample.")
    answer = await call.dialogue.ask(sample=sampling(call.arguments["prompt"]))
    return done(text(f"LLM response: {answer['sample']['content']['text']}"))


def elicits(said: str, **properties: dict[str, Any]) -> Run:
    async def run(call: Call) -> types.CallToolResult:
        if call.dialogue.capabilities.elicitation is None:
            return failed("The client does not elicit.")
        question = form(call.arguments.get("message", "Please fill in the form"), **properties)
        answer = (await call.dialogue.ask(answer=question))["answer"]
        content = json.dumps(answer.get("content", {}))
        return done(text(f"{said}: action={answer['action']}, content={content}"))

    return run


async def ask_roots(call: Call) -> types.CallToolResult:
    answer = (await call.dialogue.ask(client_roots=roots()))["client_roots"]
    return done(text(" ".join(root["uri"] for root in answer["roots"])))


async def ask_name(call: Call) -> types.CallToolResult:
    answer = (await call.dialogue.ask(user_name=form("What is your name?", name={"type": "string"})))["user_name"]
    return done(text(f"Hello, {answer.get('content', {}).get('name', 'nobody')}!"))


async def ask_capital(call: Call) -> types.CallToolResult:
    answer = await call.dialogue.ask(capital_question=sampling("What is the capital of France?"))
    return done(text(answer["capital_question"]["content"]["text"]))


async def ask_confirmation(call: Call) -> types.CallToolResult:
    await call.dialogue.ask(confirm=form("Please confirm", ok={"type": "boolean"}))
    return done(text("state-ok" if call.dialogue.resumed else "confirmed"))


async def ask_three(call: Call) -> types.CallToolResult:
    got = await call.dialogue.ask(
        user_name=form("What is your name?", name={"type": "string"}),
        greeting=sampling("Generate a greeting", max_tokens=50),
        client_roots=roots(),
    )
    return done(text(json.dumps(got)))


async def ask_twice(call: Call) -> types.CallToolResult:
    first = await call.dialogue.ask(step1=form("Step 1: What is your name?", name={"type": "string"}))
    second = await call.dialogue.ask(step2=form("Step 2: What is your favorite color?", color={"type": "string"}))
    name, color = first["step1"].get("content", {}), second["step2"].get("content", {})
    return done(text(f"{name.get('name')} likes {color.get('color')}."))


async def ask_what_is_declared(call: Call) -> types.CallToolResult:
    declared = call.dialogue.capabilities
    questions: dict[str, types.InputRequest] = {}
    if declared.sampling is not None:
        questions["sample"] = sampling("Say something")
    if declared.elicitation is not None:
        questions["form"] = form("Say something", said={"type": "string"})
    return done(text(", ".join(await call.dialogue.ask(**questions)) or "nothing declared"))


async def need_sampling(call: Call) -> types.CallToolResult:
    if call.dialogue.capabilities.sampling is None:
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            "This tool needs a client that samples",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return done(text("The client samples."))


async def report_and_elicit(call: Call) -> types.CallToolResult:
    await call.ctx.session.report_progress(0, 1, "asking")
    return await ask_name(call)


async def change_tools(call: Call) -> types.CallToolResult:
    call.counts.tools_changed += 1
    await call.bus.publish(ToolsListChanged())
    if not call.dialogue.modern:
        await call.ctx.session.send_tool_list_changed()
    return done(text("The list of tools has changed."))


async def change_prompts(call: Call) -> types.CallToolResult:
    call.counts.prompts_changed += 1
    await call.bus.publish(PromptsListChanged())
    if not call.dialogue.modern:
        await call.ctx.session.send_prompt_list_changed()
    return done(text("The list of prompts has changed."))


async def touch_watched(call: Call) -> types.CallToolResult:
    call.counts.watched += 1
    await call.bus.publish(ResourceUpdated(WATCHED))
    if not call.dialogue.modern:
        await call.ctx.session.send_resource_updated(WATCHED)
    return done(text("The watched resource has changed."))


async def tell_region(call: Call) -> types.CallToolResult:
    return done(text(f"region={call.arguments.get('region')}"))


def takes(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


STRING = {"type": "string"}
OPTIONS = ["option1", "option2", "option3"]
TITLED = [{"const": f"value{n}", "title": f"{nth} Option"} for n, nth in ((1, "First"), (2, "Second"), (3, "Third"))]
DEFAULTS = {
    "name": STRING | {"default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": STRING | {"enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "default": True},
}
ENUMS = {
    "untitledSingle": STRING | {"enum": OPTIONS},
    "titledSingle": STRING | {"oneOf": TITLED},
    "legacyEnum": STRING
    | {"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]},
    "untitledMulti": {"type": "array", "items": STRING | {"enum": OPTIONS}},
    "titledMulti": {"type": "array", "items": {"anyOf": TITLED}},
}
EVERY_KEYWORD = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": {"$anchor": "addressDef", "type": "object", "properties": {"street": STRING, "city": STRING}}},
    "properties": {
        "name": STRING,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": STRING | {"enum": ["phone", "email"]},
        "phone": STRING,
        "email": STRING,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
IDENTITY = {"username": STRING | {"description": "A name"}, "email": STRING | {"description": "An address"}}
REGION = {"type": "object", "properties": {"region": STRING | {"x-mcp-header": "Region"}}}
MIXED = (
    text("Multiple content types test:"),
    PIXEL,
    embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
)

TOOLS = (
    FixtureTool("test_simple_text", "Text", answers(text("This is a simple text response for testing."))),
    FixtureTool("test_image_content", "An image", answers(PIXEL)),
    FixtureTool("test_audio_content", "Sound", answers(SILENCE)),
    FixtureTool(
        "test_embedded_resource",
        "A resource in a result",
        answers(embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")),
    ),
    FixtureTool("test_multiple_content_types", "Text, an image and a resource", answers(*MIXED)),
    FixtureTool("test_tool_with_logging", "Logs three times", log),
    FixtureTool("test_logging_tool", "Logs where the request asks for it", log),
    FixtureTool("test_error_handling", "Always fails", raise_error),
    FixtureTool("test_tool_with_progress", "Reports progress three times", progress),
    FixtureTool("test_reconnection", "Closes its stream and goes on", reconnect),
    FixtureTool("test_sampling", "Has the client sample", sample, takes(prompt=STRING)),
    FixtureTool("test_elicitation", "Asks the user", elicits("User response", **IDENTITY), takes(message=STRING)),
    FixtureTool(
        "test_elicitation_sep1034_defaults", "Asks with defaults", elicits("Elicitation completed", **DEFAULTS)
    ),
    FixtureTool("test_elicitation_sep1330_enums", "Asks with enums", elicits("Elicitation completed", **ENUMS)),
    FixtureTool("json_schema_2020_12_tool", "Every JSON Schema keyword", answers(text("ok")), EVERY_KEYWORD),
    FixtureTool("test_custom_headers", "Mirrors an argument in a header", tell_region, REGION),
    FixtureTool("test_missing_capability", "Needs a client that samples", need_sampling),
    FixtureTool("test_streaming_elicitation", "Reports progress, then asks", report_and_elicit),
    FixtureTool("test_input_required_result_elicitation", "Asks for a name", ask_name),
    FixtureTool("test_input_required_result_sampling", "Asks a model", ask_capital),
    FixtureTool("test_input_required_result_list_roots", "Asks for roots", ask_roots),
    FixtureTool("test_input_required_result_request_state", "Asks and remembers", ask_confirmation),
    FixtureTool("test_input_required_result_tampered_state", "Seals what it remembers", ask_confirmation),
    FixtureTool("test_input_required_result_multiple_inputs", "Asks three things at once", ask_three),
    FixtureTool("test_input_required_result_multi_round", "Asks twice", ask_twice),
    FixtureTool("test_input_required_result_capabilities", "Asks what the client can answer", ask_what_is_declared),
    FixtureTool("test_trigger_tool_change", "Changes the list of tools", change_tools),
    FixtureTool("test_trigger_prompt_change", "Changes the list of prompts", change_prompts),
    FixtureTool("test_touch_watched_resource", "Changes a resource", touch_watched),
    FixtureTool("test_wait", "Waits until it is cancelled", wait),
)
BY_NAME = {tool.name: tool for tool in TOOLS}


class Fixture:
    """The handlers of one server, and what it counts."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.bus = InMemorySubscriptionBus()

    async def list_tools(self, _: ServerRequestContext, __: Any) -> types.ListToolsResult:
        changing = {"test_trigger_tool_change": f" (changed {self.counts.tools_changed} times)"}
        tools = [
            types.Tool(
                name=tool.name, description=tool.description + changing.get(tool.name, ""), input_schema=tool.schema
            )
            for tool in TOOLS
        ]
        return types.ListToolsResult(tools=tools)

    async def call_tool(
        self, ctx: ServerRequestContext, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        tool, arguments = BY_NAME.get(params.name), params.arguments or {}
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, f"Unknown tool: {params.name}")
        if missing := [name for name in tool.schema.get("required", ()) if name not in arguments]:
            return failed(f"Missing arguments: {', '.join(missing)}")
        call = Call(ctx, arguments, Dialogue(ctx, params), self.counts, self.bus)
        try:
            return await tool.run(call)
        except InputNeeded as needed:
            return needed.result

    async def list_resources(self, _: ServerRequestContext, __: Any) -> types.ListResourcesResult:
        resources = [
            types.Resource(uri=uri, name=name, description=description, mime_type=mime_type)
            for uri, name, description, mime_type in (
                ("test://static-text", "static-text", "Text that stays", "text/plain"),
                ("test://static-binary", "static-binary", "An image that stays", "image/png"),
                (WATCHED, "watched-resource", "Text that changes", "text/plain"),
                (CANCELLED, "cancelled-calls", "How many calls were cancelled", "text/plain"),
            )
        ]
        return types.ListResourcesResult(resources=resources)

    async def list_templates(self, _: ServerRequestContext, __: Any) -> types.ListResourceTemplatesResult:
        template = types.ResourceTemplate(
            uri_template="test://template/{id}/data",
            name="template",
            description="Data by id",
            mime_type="application/json",
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def read_resource(
        self, _: ServerRequestContext, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        return types.ReadResourceResult(contents=[self._contents(params.uri)])

    def _contents(self, uri: str) -> types.TextResourceContents | types.BlobResourceContents:
        if uri == "test://static-binary":
            return types.BlobResourceContents(uri=uri, mime_type="image/png", blob=png())
        mime_type, content = "text/plain", None
        if uri == "test://static-text":
            content = "This is the content of the static text resource."
        elif uri == WATCHED:
            content = f"Changed {self.counts.watched} times"
        elif uri == CANCELLED:
            content = str(self.counts.cancelled)
        elif (
            key := uri.removeprefix("test://template/").removesuffix("/data")
        ) and uri == f"test://template/{key}/data":
            mime_type = "application/json"
            content = json.dumps({"id": key, "templateTest": True, "data": f"Data for ID: {key}"})
        if content is None:
            raise MCPError(types.INVALID_PARAMS, "Resource not found", {"uri": uri})
        return types.TextResourceContents(uri=uri, mime_type=mime_type, text=content)

    async def list_prompts(self, _: ServerRequestContext, __: Any) -> types.ListPromptsResult:
        def argument(name: str) -> types.PromptArgument:
            return types.PromptArgument(name=name, description=f"The value of {name}", required=True)

        simple = f"Text alone (changed {self.counts.prompts_changed} times)"
        prompts = [
            types.Prompt(name=name, description=description, arguments=[argument(name) for name in arguments])
            for name, description, arguments in (
                ("test_simple_prompt", simple, ()),
                ("test_prompt_with_arguments", "Text with two values", ("arg1", "arg2")),
                ("test_prompt_with_embedded_resource", "A resource and text", ("resourceUri",)),
                ("test_prompt_with_image", "An image and text", ()),
                ("test_input_required_result_prompt", "Asks for a context", ()),
            )
        ]
        return types.ListPromptsResult(prompts=prompts)

    async def get_prompt(
        self, ctx: ServerRequestContext, params: types.GetPromptRequestParams
    ) -> types.GetPromptResult | types.InputRequiredResult:
        try:
            content = await self._prompt(params.name, params.arguments or {}, Dialogue(ctx, params))
        except InputNeeded as needed:
            return needed.result
        except KeyError as missing:
            raise MCPError(types.INVALID_PARAMS, f"Missing prompt or argument: {missing}") from None
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=part) for part in content])

    async def _prompt(self, name: str, arguments: dict[str, str], dialogue: Dialogue) -> tuple[types.ContentBlock, ...]:
        if name == "test_simple_prompt":
            return (text("This is a simple prompt for testing."),)
        if name == "test_prompt_with_arguments":
            return (text(f"Prompt with arguments: arg1='{arguments['arg1']}', arg2='{arguments['arg2']}'"),)
        if name == "test_prompt_with_embedded_resource":
            resource = embedded(arguments["resourceUri"], "text/plain", "Embedded resource content for testing.")
            return resource, text("Please process the embedded resource above.")
        if name == "test_prompt_with_image":
            return PIXEL, text("Please analyze the image above.")
        if name == "test_input_required_result_prompt":
            question = form("What context should the prompt use?", context=STRING)
            answer = (await dialogue.ask(user_context=question))["user_context"]
            return (text(f"Context: {answer.get('content', {}).get('context')}"),)
        raise KeyError(name)

    async def complete(self, _: ServerRequestContext, params: types.CompleteRequestParams) -> types.CompleteResult:
        values = [word for word in ("paris", "park", "party") if word.startswith(params.argument.value)]
        return types.CompleteResult(completion=types.Completion(values=values, total=len(values), has_more=False))

    async def accept(self, _: ServerRequestContext, __: Any) -> types.EmptyResult:
        return types.EmptyResult()


class Events(EventStore):
    """Keeps every event of the process, in one line."""

    def __init__(self) -> None:
        self._kept: list[tuple[str, types.JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: types.JSONRPCMessage | None) -> str:
        self._kept.append((stream_id, message))
        return str(len(self._kept))

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        stream = self._kept[int(last_event_id) - 1][0]
        for number, (stream_id, message) in enumerate(self._kept[int(last_event_id) :], int(last_event_id) + 1):
            if stream_id == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class ListChanges(Server):
    """Tells clients up to 2025-11-25 that its lists change: the SDK takes this from the transport otherwise."""

    def create_initialization_options(self, *_: Any, **__: Any) -> Any:
        return super().create_initialization_options(NotificationOptions(prompts_changed=True, tools_changed=True))


def build() -> Server:
    fixture = Fixture()
    server = ListChanges(
        "narthex-conformance-fixture",
        version="1",
        on_list_tools=fixture.list_tools,
        on_call_tool=fixture.call_tool,
        on_list_resources=fixture.list_resources,
        on_list_resource_templates=fixture.list_templates,
        on_read_resource=fixture.read_resource,
        on_subscribe_resource=fixture.accept,
        on_unsubscribe_resource=fixture.accept,
        on_subscriptions_listen=ListenHandler(fixture.bus),
        on_list_prompts=fixture.list_prompts,
        on_get_prompt=fixture.get_prompt,
        on_completion=fixture.complete,
        on_set_logging_level=fixture.accept,
    )
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=server.name))
    return server


async def serve_stdio(server: Server) -> None:
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


async def serve_http(server: Server, port: int) -> None:
    app = server.streamable_http_app(event_store=Events(), retry_interval=100)
    with socket.create_server(("127.0.0.1", port)) as listener:
        print(f"fixture ready http=127.0.0.1:{listener.getsockname()[1]}", flush=True)
        await uvicorn.Server(uvicorn.Config(app, log_level="error")).serve(sockets=[listener])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--http", type=int, metavar="PORT", help="Streamable HTTP on this port (0: any free one)")
    port = parser.parse_args().http
    warnings.simplefilter("ignore", MCPDeprecationWarning)  # old versions are what it is here for
    server = build()
    asyncio.run(serve_stdio(server) if port is None else serve_http(server, port))


if __name__ == "__main__":
    main()

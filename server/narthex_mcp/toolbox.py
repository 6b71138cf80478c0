"""The tools of a built-in MCP server: declared, checked, and run in threads."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Literal

import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError

Effect = Literal["reads", "adds", "changes"]
"""Whether a tool leaves everything as it is, only adds to it, or may destroy something."""

RESOURCE_NOT_FOUND = -32002

_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "boolean": bool, "array": list, "object": dict,
}  # fmt: skip


class Refused(Exception):
    """What cannot be done; the text tells the caller what to do instead."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` for the model, and the same as an object that fits the tool's output schema."""

    text: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument; `kinds` are JSON Schema's, `more` further keywords for callers to read.

    Integers have to be between `least` and `most`. One without a `default` is required.
    """

    about: str
    kinds: tuple[str, ...] = ("string",)
    default: Any = ...
    least: int | None = None
    most: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def schema(self) -> dict[str, Any]:
        bounds = {"minimum": self.least, "maximum": self.most}
        kind = self.kinds[0] if len(self.kinds) == 1 else list(self.kinds)
        schema = {"type": kind, "description": self.about, **self.more}
        schema |= {key: bound for key, bound in bounds.items() if bound is not None}
        return schema if self.default in (..., None) else schema | {"default": self.default}

    def check(self, name: str, value: Any) -> None:
        """Raises Refused for what does not fit."""
        fits = any(isinstance(value, _KINDS[kind]) for kind in self.kinds)
        if not fits or (isinstance(value, bool) and "boolean" not in self.kinds):
            raise Refused(f"{name} must be {' or '.join(self.kinds)}")
        low, high = self.least, self.most
        if isinstance(value, int) and ((low is not None and value < low) or (high is not None and value > high)):
            raise Refused(
                f"{name} must be between {low} and {high}" if high is not None else f"{name} is less than {low}"
            )


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool: `run` gets the arguments by name, in a thread; `output` are the properties of its facts, all required."""

    name: str
    description: str
    arguments: Mapping[str, Argument]
    output: Mapping[str, Any]
    run: Callable[..., Answer]
    effect: Effect = "reads"
    title: str | None = None

    @property
    def tool(self) -> types.Tool:
        required = [name for name, argument in self.arguments.items() if argument.default is ...]
        return types.Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema={
                "type": "object",
                "properties": {name: argument.schema for name, argument in self.arguments.items()},
                **({"required": required} if required else {}),
            },
            output_schema={"type": "object", "properties": dict(self.output), "required": list(self.output)},
            annotations=types.ToolAnnotations(
                read_only_hint=self.effect == "reads",
                destructive_hint=self.effect == "changes",
                idempotent_hint=self.effect != "changes",
                open_world_hint=False,
            ),
        )

    def answer(self, given: Mapping[str, Any]) -> Answer:
        """Runs it; raises Refused."""
        if unknown := [name for name in given if name not in self.arguments]:
            known = ", ".join(self.arguments) or "none"
            raise Refused(f"{unknown[0][:100]!r} is not an argument of {self.name}; it has: {known}")
        try:
            writable = is_text(json.dumps(given, ensure_ascii=False))
        except (ValueError, RecursionError):
            writable = False
        if not writable:
            raise Refused(f"the arguments of {self.name} are too deep or hold half a character")
        values: dict[str, Any] = {}
        for name, argument in self.arguments.items():
            value = given.get(name)
            if value is None and argument.default is ...:
                raise Refused(f"{name} is required and must be {' or '.join(argument.kinds)}")
            if value is not None:
                argument.check(name, value)
            values[name] = argument.default if value is None else value
        return self.run(**values)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a server lets clients read; `read` raises Refused for a URI that it does not know."""

    listed: Callable[[], Sequence[types.Resource]]
    read: Callable[[str], types.TextResourceContents | types.BlobResourceContents]
    templates: tuple[types.ResourceTemplate, ...] = ()


def create_server(
    name: str, instructions: str, specs: Sequence[ToolSpec], resources: Resources | None = None
) -> Server:
    """The MCP server; a call that cannot be answered gives a result with `isError` that says what to do."""
    by_name = {spec.name: spec for spec in specs}
    tools = [spec.tool for spec in specs]

    async def list_tools(context: object, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=tools)

    async def call_tool(context: object, params: types.CallToolRequestParams) -> types.CallToolResult:
        if (spec := by_name.get(params.name)) is None:
            return _refusal(f"there is no tool named {params.name[:100]}; there are: {', '.join(by_name)}")
        try:
            answer = await asyncio.to_thread(spec.answer, params.arguments or {})
        except Refused as refused:
            return _refusal(str(refused))
        except OSError as error:
            return _refusal(f"{spec.name} failed: {error.strerror or type(error).__name__}")
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=answer.text)], structured_content=dict(answer.facts)
        )

    if resources is None:
        return Server(
            name, version=version("narthex"), instructions=instructions,
            on_list_tools=list_tools, on_call_tool=call_tool,
        )  # fmt: skip
    known = resources

    async def list_resources(context: object, params: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=list(await asyncio.to_thread(known.listed)))

    async def list_templates(
        context: object, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=list(known.templates))

    async def read_resource(context: object, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        try:
            return types.ReadResourceResult(contents=[await asyncio.to_thread(known.read, str(params.uri))])
        except Refused as refused:
            raise MCPError(RESOURCE_NOT_FOUND, str(refused)) from None
        except OSError as error:
            raise MCPError(types.INTERNAL_ERROR, error.strerror or type(error).__name__) from None

    return Server(
        name, version=version("narthex"), instructions=instructions,
        on_list_tools=list_tools, on_call_tool=call_tool,
        on_list_resources=list_resources, on_list_resource_templates=list_templates, on_read_resource=read_resource,
    )  # fmt: skip


async def serve(server: Server) -> None:
    """Serves standard input and output until the input ends."""
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def as_json(facts: Mapping[str, Any]) -> Answer:
    """An answer whose text is its facts."""
    return Answer(json.dumps(facts, ensure_ascii=False), facts)


def is_text(text: str) -> bool:
    """Whether UTF-8 can hold it: not halves of surrogate pairs, as they are in names of files that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refusal(text: str) -> types.CallToolResult:
    text = text.encode(errors="replace").decode()
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=True)

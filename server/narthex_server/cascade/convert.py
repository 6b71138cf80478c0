"""The contract's messages, as another narthex sends them, in our own terms."""

import json

from google.protobuf.message import Message
from narthex.v1 import tool_pb2 as wire

from narthex_server.tools.completion import Completion
from narthex_server.tools.inputs import Answer
from narthex_server.tools.mcp_context import McpContext
from narthex_server.tools.prompt import FilledPrompt, Prompt, PromptArgument, PromptMessage
from narthex_server.tools.resource import Contents, Part, Resource, ResourceTemplate
from narthex_server.tools.tool import InputRequest, Log, Progress, TextDelta, Tool, ToolResult

_LEVEL = "LOG_LEVEL_"


def tool(one: wire.Tool) -> Tool:
    return Tool(
        name=one.name,
        title=one.title,
        description=one.description,
        input_schema=one.input_schema,
        output_schema=one.output_schema,
        annotations=one.annotations,
        icons=one.icons,
        meta=one.meta,
    )


def resource(one: wire.Resource) -> Resource:
    return Resource(
        uri=one.uri,
        name=one.name,
        title=one.title,
        description=one.description,
        mime_type=one.mime_type,
        size=one.size if one.HasField("size") else None,
        annotations=one.annotations,
        icons=one.icons,
        meta=one.meta,
    )


def template(one: wire.ResourceTemplate) -> ResourceTemplate:
    return ResourceTemplate(
        uri_template=one.uri_template,
        name=one.name,
        title=one.title,
        description=one.description,
        mime_type=one.mime_type,
        annotations=one.annotations,
        icons=one.icons,
        meta=one.meta,
    )


def prompt(one: wire.Prompt) -> Prompt:
    return Prompt(
        name=one.name,
        title=one.title,
        description=one.description,
        arguments=tuple(PromptArgument(a.name, a.title, a.description, a.required) for a in one.arguments),
        icons=one.icons,
        meta=one.meta,
    )


def contents(found: wire.ReadResourceResponse) -> Contents:
    return Contents(tuple(map(_part, found.contents)), found.meta, found.ttl_ms)


def filled(found: wire.GetPromptResponse) -> FilledPrompt:
    messages = tuple(PromptMessage(one.role, one.content) for one in found.messages)
    return FilledPrompt(messages, found.description, found.meta)


def completion(found: wire.CompleteResponse) -> Completion:
    return Completion(tuple(found.values), found.total if found.HasField("total") else None, found.has_more)


def progress(one: wire.Progress) -> Progress:
    return Progress(one.progress, one.total if one.HasField("total") else None, one.message)


def log(one: wire.LogMessage) -> Log:
    """A level that this version does not know is `info`."""
    known = one.level in wire.LogLevel.values() and one.level not in (wire.LOG_LEVEL_UNSPECIFIED, wire.LOG_LEVEL_OFF)
    level = wire.LogLevel.Name(one.level).removeprefix(_LEVEL).lower() if known else "info"
    return Log(level, one.logger, one.data)


def text_delta(one: Message) -> TextDelta:
    return TextDelta(getattr(one, "text", ""))


def result(one: wire.ToolResult) -> ToolResult:
    return ToolResult(one.content, one.structured_content, one.is_error, one.meta)


def request(one: wire.InputRequest) -> InputRequest:
    return InputRequest(one.id, one.mcp.method, one.mcp.params)


def state(wanted: wire.InputRequired) -> str | None:
    """Raises ValueError for one that is no text."""
    return wanted.request_state.decode("utf-8", "surrogatepass") if wanted.HasField("request_state") else None


def response(name: str, answer: Answer) -> wire.InputResponse:
    """The answer to the request that the other server calls `name`."""
    if answer.error is not None:
        return wire.InputResponse(id=name, error=json.dumps(answer.error).encode())
    return wire.InputResponse(id=name, result=json.dumps(answer.result or {}).encode())


def mcp_context(context: McpContext) -> wire.McpContext:
    """What goes to the other server with a request."""
    made = wire.McpContext(
        client_capabilities=_object(context.capabilities),
        meta=_object(context.meta),
        input_responses=_object(context.input_responses),
    )
    if context.log_level is not None:
        made.log_level = wire.LogLevel.Value(f"{_LEVEL}{context.log_level.upper()}")
    if context.request_state is not None:
        made.request_state = context.request_state.encode("utf-8", "surrogatepass")
    return made


def _object(value: object) -> bytes:
    return json.dumps(value).encode() if value else b""


def _part(one: wire.ResourceContents) -> Part:
    content = one.text if one.WhichOneof("content") == "text" else one.blob
    return Part(one.uri, content, one.mime_type, one.meta)

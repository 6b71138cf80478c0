"""The contract's messages as the bridge's own events, and back."""

from base64 import b64encode

import orjson
from narthex.v1 import tool_pb2

from narthex_bridge.protocol.events import (
    Contents,
    InputRequest,
    InputRequired,
    Log,
    Progress,
    Prompt,
    PromptArgument,
    Prompted,
    Resource,
    Result,
    Suggestions,
    Template,
    TextDelta,
    Tool,
    ToolEvent,
)
from narthex_bridge.protocol.methods import LOG_LEVELS

LEVELS = {level: tool_pb2.LogLevel.Value(f"LOG_LEVEL_{level.upper()}") for level in LOG_LEVELS}


def event(response: tool_pb2.CallToolResponse) -> ToolEvent | None:
    """One event of a call; None for one of a newer contract."""
    match response.WhichOneof("event"):
        case "text_delta":
            return TextDelta(response.text_delta.text)
        case "progress":
            progress = response.progress
            return Progress(progress.progress, progress.total if progress.HasField("total") else None, progress.message)
        case "log":
            return Log(LOG_LEVELS[max(response.log.level - 1, 0)], response.log.logger, response.log.data)
        case "input_required":
            return input_required(response.input_required)
        case "result":
            result = response.result
            return Result(result.content, result.structured_content, result.is_error, result.meta)
        case _:
            return None


def input_required(asked: tool_pb2.InputRequired) -> InputRequired:
    requests = (InputRequest(each.id, each.mcp.method, each.mcp.params) for each in asked.requests)
    state = asked.request_state if asked.HasField("request_state") else None
    return InputRequired(asked.call_id, tuple(requests), state)


def tool(wire: tool_pb2.Tool) -> Tool:
    return Tool(
        wire.name,
        wire.title,
        wire.description,
        wire.input_schema,
        wire.output_schema,
        wire.annotations,
        wire.icons,
        wire.meta,
    )


def resource(wire: tool_pb2.Resource) -> Resource:
    return Resource(
        wire.uri,
        wire.name,
        wire.title,
        wire.description,
        wire.mime_type,
        wire.size if wire.HasField("size") else None,
        wire.annotations,
        wire.icons,
        wire.meta,
    )


def template(wire: tool_pb2.ResourceTemplate) -> Template:
    return Template(
        wire.uri_template,
        wire.name,
        wire.title,
        wire.description,
        wire.mime_type,
        wire.annotations,
        wire.icons,
        wire.meta,
    )


def prompt(wire: tool_pb2.Prompt) -> Prompt:
    arguments = (PromptArgument(each.name, each.title, each.description, each.required) for each in wire.arguments)
    return Prompt(wire.name, wire.title, wire.description, tuple(arguments), wire.icons, wire.meta)


def contents(wire: tool_pb2.ReadResourceResponse) -> Contents:
    return Contents(tuple(map(_part, wire.contents)), wire.meta, wire.ttl_ms)


def prompted(wire: tool_pb2.GetPromptResponse) -> Prompted:
    return Prompted(wire.description, tuple((each.role, each.content) for each in wire.messages), wire.meta)


def suggestions(wire: tool_pb2.CompleteResponse) -> Suggestions:
    return Suggestions(tuple(wire.values), wire.total if wire.HasField("total") else None, wire.has_more)


def _part(wire: tool_pb2.ResourceContents) -> bytes:
    part: dict[str, object] = {"uri": wire.uri}
    if wire.mime_type:
        part["mimeType"] = wire.mime_type
    if wire.WhichOneof("content") == "blob":
        part["blob"] = b64encode(wire.blob).decode()
    else:
        part["text"] = wire.text
    if wire.meta:
        part["_meta"] = orjson.Fragment(wire.meta)
    return orjson.dumps(part)

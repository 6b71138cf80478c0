"""Tools, resources, templates and prompts as MCP clients read them."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import orjson
from orjson import Fragment

from narthex_bridge.protocol.eras import Era
from narthex_bridge.protocol.events import Listed, Prompt, Resource, Template, Tool
from narthex_bridge.protocol.results import LIST_TTL_MS, Members, complete


def page(kind: str, items: Iterable[Listed], cursor: str, era: Era) -> bytes:
    """The result of a list as JSON; `cursor` names the next page, empty at the end."""
    member = "resourceTemplates" if kind == "templates" else kind
    value: Members = {member: [_RENDERERS[type(item)](item, era) for item in items]}
    if cursor:
        value["nextCursor"] = cursor
    return orjson.dumps(complete(era, value, ttl_ms=LIST_TTL_MS))


def _tool(tool: Tool, era: Era) -> Members:
    value = _named(tool, era)
    value["inputSchema"] = Fragment(tool.input_schema or b'{"type":"object"}')
    if tool.output_schema and era.structured:
        value["outputSchema"] = Fragment(tool.output_schema)
    return value


def _resource(resource: Resource, era: Era) -> Members:
    value: Members = {"uri": resource.uri, **_named(resource, era)}
    if resource.mime_type:
        value["mimeType"] = resource.mime_type
    if resource.size is not None:
        value["size"] = resource.size
    return value


def _template(template: Template, era: Era) -> Members:
    value: Members = {"uriTemplate": template.uri_template, **_named(template, era)}
    if template.mime_type:
        value["mimeType"] = template.mime_type
    return value


def _prompt(prompt: Prompt, era: Era) -> Members:
    value = _named(prompt, era)
    if prompt.arguments:
        value["arguments"] = [
            {"name": argument.name, "required": argument.required}
            | ({"title": argument.title} if argument.title and era.titles else {})
            | ({"description": argument.description} if argument.description else {})
            for argument in prompt.arguments
        ]
    return value


def _named(item: Listed, era: Era) -> Members:
    """What all have in common, in the spelling of MCP."""
    value: Members = {"name": item.name}
    if item.title and era.titles:
        value["title"] = item.title
    if item.description:
        value["description"] = item.description
    if item.annotations and era.annotations:
        value["annotations"] = Fragment(item.annotations)
    if item.icons and era.icons:
        value["icons"] = Fragment(item.icons)
    if item.meta and era.structured:  # both came with 2025-06-18
        value["_meta"] = Fragment(item.meta)
    return value


_RENDERERS: Mapping[type, Callable[..., Members]] = MappingProxyType(
    {Tool: _tool, Resource: _resource, Template: _template, Prompt: _prompt}
)

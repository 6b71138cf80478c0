"""Resources and prompts, from the domain to the wire."""

from narthex.v1 import tool_pb2 as wire

from narthex_server.errors import Violation, invalid
from narthex_server.services.mcp_context import input_required_to_wire
from narthex_server.tools.completion import Completion, PromptReference, Reference, TemplateReference
from narthex_server.tools.prompt import FilledPrompt, Prompt
from narthex_server.tools.resource import Contents, Part, Resource, ResourceTemplate
from narthex_server.tools.tool import InputRequired


def resource_to_wire(resource: Resource) -> wire.Resource:
    return wire.Resource(
        uri=resource.uri,
        name=resource.name,
        title=resource.title,
        description=resource.description,
        mime_type=resource.mime_type,
        size=resource.size,
        annotations=resource.annotations,
        server=resource.server,
        icons=resource.icons,
        meta=resource.meta,
    )


def template_to_wire(template: ResourceTemplate) -> wire.ResourceTemplate:
    return wire.ResourceTemplate(
        uri_template=template.uri_template,
        name=template.name,
        title=template.title,
        description=template.description,
        mime_type=template.mime_type,
        annotations=template.annotations,
        server=template.server,
        icons=template.icons,
        meta=template.meta,
    )


def contents_to_wire(found: Contents | InputRequired) -> wire.ReadResourceResponse:
    if isinstance(found, InputRequired):
        return wire.ReadResourceResponse(input_required=input_required_to_wire(found))
    return wire.ReadResourceResponse(contents=map(_part, found.parts), meta=found.meta, ttl_ms=found.ttl_ms)


def prompt_to_wire(prompt: Prompt) -> wire.Prompt:
    return wire.Prompt(
        name=prompt.name,
        title=prompt.title,
        description=prompt.description,
        arguments=[
            wire.PromptArgument(name=one.name, title=one.title, description=one.description, required=one.required)
            for one in prompt.arguments
        ],
        server=prompt.server,
        icons=prompt.icons,
        meta=prompt.meta,
    )


def filled_to_wire(filled: FilledPrompt | InputRequired) -> wire.GetPromptResponse:
    if isinstance(filled, InputRequired):
        return wire.GetPromptResponse(input_required=input_required_to_wire(filled))
    messages = [wire.PromptMessage(role=one.role, content=one.content) for one in filled.messages]
    return wire.GetPromptResponse(description=filled.description, messages=messages, meta=filled.meta)


def reference_from(request: wire.CompleteRequest) -> Reference:
    """Raises InvalidRequest where there is none."""
    match request.WhichOneof("reference"):
        case "prompt":
            return PromptReference(request.prompt)
        case "uri_template":
            return TemplateReference(request.uri_template)
        case _:
            raise invalid(Violation("reference", "must name a prompt or a resource template"))


def completion_to_wire(completion: Completion) -> wire.CompleteResponse:
    return wire.CompleteResponse(values=completion.values, total=completion.total, has_more=completion.has_more)


def _part(part: Part) -> wire.ResourceContents:
    made = wire.ResourceContents(uri=part.uri, mime_type=part.mime_type, meta=part.meta)
    if isinstance(part.content, str):
        made.text = part.content
    else:
        made.blob = part.content
    return made

"""An MCP server of resources and prompts, whose tools change them: `library.py VERSION NAME [PORT]`.

VERSION is 2025-11-25 or 2026-07-28. Every server has the URI demo://same and the prompt `greet`, so that two collide.
"""

import asyncio
import base64
import os
import sys

import mcp_types as types
import uvicorn
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import PromptsListChanged, ResourcesListChanged, ResourceUpdated

VERSION, NAME, *PORT = sys.argv[1:]
MODERN = VERSION >= "2026"
ICON = types.Icon(src="data:image/png;base64,AA==", mime_type="image/png", sizes=["48x48"])

resources = ["demo://same", f"demo://{NAME}/one"]
prompts = ["greet"]
subscribed: list[str] = []
bus = InMemorySubscriptionBus()
listening = ListenHandler(bus)


async def list_resources(ctx, params) -> types.ListResourcesResult:
    start = int(params.cursor or 0) if params else 0
    page = [
        types.Resource(
            uri=uri,
            name=uri,
            title="One",
            description=NAME,
            mime_type="text/plain",
            size=3,
            annotations=types.Annotations(audience=["user"], priority=0.5),
            icons=[ICON],
            _meta={"shelf": 1},
        )
        for uri in resources[start : start + 2]
    ]
    more = str(start + 2) if start + 2 < len(resources) else None
    return types.ListResourcesResult(resources=page, next_cursor=more)


async def list_templates(ctx, params) -> types.ListResourceTemplatesResult:
    template = types.ResourceTemplate(uri_template=f"demo://{NAME}/items/{{id}}", name="items", icons=[ICON])
    return types.ListResourceTemplatesResult(resource_templates=[template])


async def read(ctx, params) -> types.ReadResourceResult | types.InputRequiredResult:
    if params.uri.endswith("/asks"):
        if params.request_state is None:
            question = types.ElicitRequest(
                params=types.ElicitRequestFormParams(
                    message="Who?", requested_schema={"type": "object", "properties": {}}
                )
            )
            return types.InputRequiredResult(input_requests={"who": question}, request_state="half way")
        who = params.input_responses["who"].content["name"]
        text = f"{who}, {params.request_state}, {(params.meta or {}).get('traceparent')}"
        return types.ReadResourceResult(contents=[types.TextResourceContents(uri=params.uri, text=text)])
    if params.uri.endswith("/bytes"):
        blob = base64.b64encode(b"\0\1\2").decode()
        return types.ReadResourceResult(contents=[types.BlobResourceContents(uri=params.uri, blob=blob)], ttl_ms=500)
    if params.uri.endswith("/fails"):
        raise MCPError(types.INTERNAL_ERROR, "the shelf fell over")
    if params.uri.endswith("/hangs"):
        await asyncio.sleep(3600)
    if params.uri not in resources and not params.uri.startswith((f"demo://{NAME}/items/", f"secret://{NAME}/")):
        code = types.INVALID_PARAMS if MODERN else -32002
        raise MCPError(code, f"Resource not found: {params.uri}", {"uri": params.uri})
    part = types.TextResourceContents(uri=params.uri, text=f"{NAME} has {params.uri}", _meta={"page": 7})
    return types.ReadResourceResult(contents=[part], _meta={"read": True})


async def subscribe(ctx, params) -> types.EmptyResult:
    if params.uri == "demo://forbidden":
        raise MCPError(types.INVALID_PARAMS, "not that one")
    subscribed.append(params.uri)
    return types.EmptyResult()


async def unsubscribe(ctx, params) -> types.EmptyResult:
    subscribed.remove(params.uri)
    return types.EmptyResult()


async def listen(ctx, params):
    uris = params.notifications.resource_subscriptions or []
    if "demo://forbidden" in uris:
        raise MCPError(types.INVALID_PARAMS, "not that one")
    subscribed.extend(uris)
    try:
        return await listening(ctx, params)
    finally:
        for uri in uris:
            subscribed.remove(uri)


async def list_prompts(ctx, params) -> types.ListPromptsResult:
    arguments = [
        types.PromptArgument(name="who", title="Who", description="to greet", required=True),
        types.PromptArgument(name="how"),
    ]
    found = [
        types.Prompt(name=name, title="Greeting", description=NAME, arguments=arguments, icons=[ICON], _meta={"n": 2})
        for name in prompts
    ]
    return types.ListPromptsResult(prompts=found)


async def get_prompt(ctx, params) -> types.GetPromptResult | types.InputRequiredResult:
    if params.arguments.get("how") == "wrongly":
        raise MCPError(types.INVALID_PARAMS, "not like that")
    if params.arguments.get("how") == "asking" and params.request_state is None:
        return types.InputRequiredResult(request_state="again")
    text = types.TextContent(text=f"Hello {params.arguments['who']} from {NAME}")
    return types.GetPromptResult(
        description="A greeting", messages=[types.PromptMessage(role="user", content=text)], _meta={"got": True}
    )


async def complete(ctx, params) -> types.CompleteResult:
    known = params.context.arguments if params.context else {}
    values = [NAME, *known]
    return types.CompleteResult(completion=types.Completion(values=values, total=len(values)))


async def list_tools(ctx, params) -> types.ListToolsResult:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    names = ("touch", "add", "add_prompt", "subscriptions", "hang_up", "die")
    tools = [types.Tool(name=name, input_schema=schema, icons=[ICON], _meta={"t": 1}) for name in names]
    return types.ListToolsResult(tools=tools)


async def call(ctx, params) -> types.CallToolResult:
    name = (params.arguments or {}).get("name", "")
    session = ctx.session
    match params.name:
        case "touch":
            await (bus.publish(ResourceUpdated(uri=name)) if MODERN else session.send_resource_updated(name))
        case "add":
            resources.append(name)
            await (bus.publish(ResourcesListChanged()) if MODERN else session.send_resource_list_changed())
        case "add_prompt":
            prompts.append(name)
            await (bus.publish(PromptsListChanged()) if MODERN else session.send_prompt_list_changed())
        case "hang_up":
            listening.close()
        case "die":
            os._exit(7)
    return types.CallToolResult(content=[types.TextContent(text=",".join(sorted(subscribed)))], _meta={"m": 1})


server = Server(
    NAME,
    version="1",
    on_list_resources=list_resources,
    on_list_resource_templates=list_templates,
    on_read_resource=read,
    on_subscribe_resource=subscribe,
    on_unsubscribe_resource=unsubscribe,
    on_subscriptions_listen=listen,
    on_list_prompts=list_prompts,
    on_get_prompt=get_prompt,
    on_completion=complete,
    on_list_tools=list_tools,
    on_call_tool=call,
)


async def main() -> None:
    changes = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
    async with stdio_server() as (reading, writing):
        options = server.create_initialization_options(changes)
        if MODERN:
            await server.run(reading, writing, options)
        else:
            await serve_loop(server, reading, writing, lifespan_state={}, init_options=options)


if PORT:
    uvicorn.run(server.streamable_http_app(), port=int(PORT[0]))
else:
    asyncio.run(main())

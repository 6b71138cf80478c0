"""A session by the official Python client 2.x: python_v2.py auto|legacy|sse URL → what happened, as JSON."""

import asyncio
import contextlib
import json
import sys
import warnings

import mcp_types as types
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError

PATIENCE_S = 5
MODERN = "2026-07-28"
report = {}


async def attempt(name, step):
    """Keeps what a step gives, or how it failed."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            report[name] = await step
    except MCPError as error:
        report[name] = {"code": error.code, "message": error.message}
    except Exception as error:
        report[name] = {"failed": repr(error)}


async def sample(_, params):
    said = f"sampled: {params.messages[0].content.text}"
    return types.CreateMessageResult(role="assistant", content=types.TextContent(text=said), model="none")


async def elicit(_, params):
    return types.ElicitResult(action="accept", content={name: name for name in params.requested_schema["properties"]})


async def list_roots(_):
    return types.ListRootsResult(roots=[types.Root(uri="file:///somewhere")])


class Heard:
    """What the server has told by itself."""

    def __init__(self):
        self.logs, self.updated, self.changed = [], asyncio.Event(), asyncio.Event()

    async def log(self, params):
        self.logs.append(params.data)

    async def message(self, message):
        if isinstance(message, types.ResourceUpdatedNotification):
            self.updated.set()
        if isinstance(message, types.ToolListChangedNotification):
            self.changed.set()


async def called(client, name, **arguments):
    result = await client.call_tool(name, arguments)
    return {"isError": result.is_error, "text": result.content[0].text}


async def read(client, uri):
    return (await client.read_resource(uri, cache_mode="bypass")).contents[0].text


async def progress(client):
    told = []

    async def on_progress(value, total, _):
        told.append([value, total])

    await client.call_tool("test_tool_with_progress", {}, progress_callback=on_progress)
    return told


async def logs(client, heard):
    if client.protocol_version != MODERN:
        await client.set_logging_level("info")
    await client.call_tool("test_tool_with_logging", {})
    return heard.logs


@contextlib.asynccontextmanager
async def told(client, event, **wanted):
    """Gives what waits for a change: the next event of a subscription, or the notification of older versions."""
    if client.protocol_version != MODERN:
        for uri in wanted.get("resource_subscriptions", ()):
            await client.subscribe_resource(uri)
        yield event.wait()
        return
    async with client.listen(**wanted) as subscription:
        yield anext(aiter(subscription))


async def updated(client, heard):
    async with told(client, heard.updated, resource_subscriptions=["test://watched-resource"]) as change:
        await client.call_tool("test_touch_watched_resource", {})
        await change
    return await read(client, "test://watched-resource")


async def changed(client, heard):
    async with told(client, heard.changed, tools_list_changed=True) as change:
        await client.call_tool("test_trigger_tool_change", {})
        await change
    tools = (await client.list_tools(cache_mode="bypass")).tools
    return next(tool.description for tool in tools if tool.name == "test_trigger_tool_change")


async def cancelled(client):
    before, waiting = int(await read(client, "test://cancelled-calls")), asyncio.Event()

    async def on_progress(*_):
        waiting.set()

    call = asyncio.create_task(client.call_tool("test_wait", {}, progress_callback=on_progress))
    await waiting.wait()
    call.cancel()
    while (after := int(await read(client, "test://cancelled-calls"))) == before:
        pass  # the reading itself takes its time
    return after - before


async def completed(client):
    reference = types.PromptReference(name="test_prompt_with_arguments")
    return (await client.complete(reference, {"name": "arg1", "value": "par"})).completion.values


async def prompted(client, name, **arguments):
    return (await client.get_prompt(name, arguments)).messages[0].content.model_dump(mode="json")


async def names(listing, kind):
    return [getattr(item, "uri", None) or item.name for item in getattr(await listing, kind)]


async def main(kind, url):
    heard = Heard()
    client = Client(
        sse_client(url) if kind == "sse" else streamable_http_client(url),
        mode="auto" if kind == "auto" else "legacy",
        sampling_callback=sample,
        elicitation_callback=elicit,
        list_roots_callback=list_roots,
        logging_callback=heard.log,
        log_level="info",
        message_handler=heard.message,
    )
    async with client:
        report["version"] = client.protocol_version
        await attempt("tools", names(client.list_tools(), "tools"))
        await attempt("text", called(client, "test_simple_text"))
        await attempt("failing", called(client, "test_error_handling"))
        await attempt("progress", progress(client))
        await attempt("logs", logs(client, heard))
        await attempt("resources", names(client.list_resources(), "resources"))
        await attempt("read", read(client, "test://static-text"))
        await attempt("template", read(client, "test://template/7/data"))
        await attempt("missing", read(client, "test://nowhere"))
        await attempt("prompts", names(client.list_prompts(), "prompts"))
        await attempt("prompt", prompted(client, "test_prompt_with_arguments", arg1="one", arg2="two"))
        await attempt("completion", completed(client))
        await attempt("sampling", called(client, "test_sampling", prompt="Say it"))
        await attempt("elicitation", called(client, "test_elicitation", message="Who?"))
        await attempt("roots", called(client, "test_input_required_result_list_roots"))
        await attempt("rounds", called(client, "test_input_required_result_multi_round"))
        await attempt("updated", updated(client, heard))
        await attempt("changed", changed(client, heard))
        await attempt("cancelled", cancelled(client))
    print(json.dumps(report))


warnings.simplefilter("ignore", MCPDeprecationWarning)
asyncio.run(main(*sys.argv[1:]))

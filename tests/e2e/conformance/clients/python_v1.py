"""A session by the official Python client 1.x: python_v1.py http|sse URL → what happened, as JSON."""

import asyncio
import json
import sys

from mcp import ClientSession, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import McpError

PATIENCE_S = 5
report = {}


async def attempt(name, step):
    """Keeps what a step gives, or how it failed."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            report[name] = await step
    except McpError as error:
        report[name] = {"code": error.error.code, "message": error.error.message}
    except Exception as error:
        report[name] = {"failed": repr(error)}


async def sample(_, params):
    said = f"sampled: {params.messages[0].content.text}"
    return types.CreateMessageResult(role="assistant", content=types.TextContent(type="text", text=said), model="none")


async def elicit(_, params):
    return types.ElicitResult(action="accept", content={name: name for name in params.requestedSchema["properties"]})


async def list_roots(_):
    return types.ListRootsResult(roots=[types.Root(uri="file:///somewhere")])


class Heard:
    """What the server has told by itself."""

    def __init__(self):
        self.logs, self.updated, self.changed = [], asyncio.Event(), asyncio.Event()

    async def log(self, params):
        self.logs.append(params.data)

    async def message(self, message):
        if isinstance(message, types.ServerNotification):
            if isinstance(message.root, types.ResourceUpdatedNotification):
                self.updated.set()
            if isinstance(message.root, types.ToolListChangedNotification):
                self.changed.set()


async def called(session, name, **arguments):
    result = await session.call_tool(name, arguments)
    return {"isError": result.isError, "text": result.content[0].text}


async def read(session, uri):
    return (await session.read_resource(uri)).contents[0].text


async def progress(session):
    told = []

    async def on_progress(value, total, _):
        told.append([value, total])

    await session.call_tool("test_tool_with_progress", {}, progress_callback=on_progress)
    return told


async def logs(session, heard):
    await session.set_logging_level("info")
    await session.call_tool("test_tool_with_logging", {})
    return heard.logs


async def updated(session, heard):
    await session.subscribe_resource("test://watched-resource")
    await session.call_tool("test_touch_watched_resource", {})
    await heard.updated.wait()
    return await read(session, "test://watched-resource")


async def changed(session, heard):
    await session.call_tool("test_trigger_tool_change", {})
    await heard.changed.wait()
    tools = (await session.list_tools()).tools
    return next(tool.description for tool in tools if tool.name == "test_trigger_tool_change")


async def cancelled(session):
    before, waiting = int(await read(session, "test://cancelled-calls")), asyncio.Event()

    async def on_progress(*_):
        waiting.set()

    number = session._request_id
    call = asyncio.create_task(session.call_tool("test_wait", {}, progress_callback=on_progress))
    await waiting.wait()
    params = types.CancelledNotificationParams(requestId=number, reason="no longer needed")
    cancel = types.CancelledNotification(method="notifications/cancelled", params=params)
    await session.send_notification(types.ClientNotification(cancel))
    while (after := int(await read(session, "test://cancelled-calls"))) == before:
        pass  # the reading itself takes its time
    call.cancel()
    return after - before


async def completed(session):
    reference = types.PromptReference(type="ref/prompt", name="test_prompt_with_arguments")
    return (await session.complete(reference, {"name": "arg1", "value": "par"})).completion.values


async def prompted(session, name, **arguments):
    return (await session.get_prompt(name, arguments)).messages[0].content.model_dump(mode="json")


async def names(listing, kind):
    return [str(getattr(item, "uri", None) or item.name) for item in getattr(await listing, kind)]


async def main(kind, url):
    heard = Heard()
    async with (sse_client if kind == "sse" else streamable_http_client)(url) as streams:
        callbacks = {"sampling_callback": sample, "elicitation_callback": elicit, "list_roots_callback": list_roots}
        heard_by = {"logging_callback": heard.log, "message_handler": heard.message}
        async with ClientSession(streams[0], streams[1], **callbacks, **heard_by) as session:
            report["version"] = (await session.initialize()).protocolVersion
            await attempt("tools", names(session.list_tools(), "tools"))
            await attempt("text", called(session, "test_simple_text"))
            await attempt("failing", called(session, "test_error_handling"))
            await attempt("progress", progress(session))
            await attempt("logs", logs(session, heard))
            await attempt("resources", names(session.list_resources(), "resources"))
            await attempt("read", read(session, "test://static-text"))
            await attempt("template", read(session, "test://template/7/data"))
            await attempt("missing", read(session, "test://nowhere"))
            await attempt("prompts", names(session.list_prompts(), "prompts"))
            await attempt("prompt", prompted(session, "test_prompt_with_arguments", arg1="one", arg2="two"))
            await attempt("completion", completed(session))
            await attempt("sampling", called(session, "test_sampling", prompt="Say it"))
            await attempt("elicitation", called(session, "test_elicitation", message="Who?"))
            await attempt("roots", called(session, "test_input_required_result_list_roots"))
            await attempt("rounds", called(session, "test_input_required_result_multi_round"))
            await attempt("updated", updated(session, heard))
            await attempt("changed", changed(session, heard))
            await attempt("cancelled", cancelled(session))
    print(json.dumps(report))


asyncio.run(main(*sys.argv[1:]))

"""An MCP server whose tools ask their caller: `asking.py stdio | http PORT`; before 2026-07-28 while the call runs."""

import json
import sys
import warnings

import anyio
import mcp_types as types
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError, UrlElicitationRequiredError
from mcp.shared.message import ServerMessageMetadata

warnings.simplefilter("ignore")
server = MCPServer("asking")
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
FORM = types.ElicitRequest(params=types.ElicitRequestFormParams(message="Who are you?", requested_schema=SCHEMA))
PROMPT = [types.SamplingMessage(role="user", content=types.TextContent(text="Say hello"))]
SAMPLE = types.CreateMessageRequest(
    params=types.CreateMessageRequestParams(messages=PROMPT, max_tokens=8, temperature=0, system_prompt="Be brief")
)
unheard = []


async def ask(ctx: Context, request, result, seconds=None) -> str:
    related = ServerMessageMetadata(related_request_id=ctx.request_id)
    try:
        answer = await ctx.session.send_request(request, result, seconds, related)
    except MCPError as error:
        return f"{error.code} {error.message}"
    return answer.model_dump_json(by_alias=True, exclude_none=True)


@server.tool()
async def form(ctx: Context) -> str:
    await ctx.report_progress(1, 2, "asking")
    return await ask(ctx, FORM, types.ElicitResult)


@server.tool()
async def url(ctx: Context) -> str:
    params = types.ElicitRequestURLParams(message="Visit", url="https://example.com", elicitation_id="e1")
    answer = await ask(ctx, types.ElicitRequest(params=params), types.ElicitResult)
    await ctx.session.send_elicit_complete("e1")
    return answer


@server.tool()
async def sample(ctx: Context) -> str:
    return await ask(ctx, SAMPLE, types.CreateMessageResult)


@server.tool()
async def roots(ctx: Context) -> str:
    return await ask(ctx, types.ListRootsRequest(), types.ListRootsResult)


@server.tool()
async def both(ctx: Context) -> str:
    answers = {}

    async def one(key, request, result):
        answers[key] = json.loads(await ask(ctx, request, result))

    async with anyio.create_task_group() as group:
        group.start_soon(one, "form", FORM, types.ElicitResult)
        group.start_soon(one, "roots", types.ListRootsRequest(), types.ListRootsResult)
    return json.dumps(answers)


@server.tool()
async def impatient(ctx: Context) -> str:
    return await ask(ctx, FORM, types.ElicitResult, 0.2)


@server.tool()
async def rude(ctx: Context) -> str:
    """Ends while it asks."""
    async with anyio.create_task_group() as group:

        async def never_mind():
            unheard.append(await ask(ctx, FORM, types.ElicitResult))

        group.start_soon(never_mind)
        await anyio.sleep(0.1)
        group.cancel_scope.cancel()
    return "never mind"


@server.tool()
async def visit_first() -> str:
    params = types.ElicitRequestURLParams(message="Sign in", url="https://example.com/in", elicitation_id="e2")
    raise UrlElicitationRequiredError([params])


@server.tool()
async def needs_sampling() -> str:
    raise MCPError(-32021, "sampling is needed", {"requiredCapabilities": {"sampling": {}}})


@server.tool()
async def meta(ctx: Context) -> types.CallToolResult:
    """What came as `_meta`, and the capabilities in it or of the connection."""
    seen = {"meta": ctx.request_context.meta, "state": ctx.request_state}
    text = types.TextContent(text=json.dumps(seen))
    return types.CallToolResult(content=[text], _meta={"example.com/served": True, "io.modelcontextprotocol/x": 1})


@server.tool()
async def logs(ctx: Context) -> str:
    for level in ("debug", "info", "error"):
        await ctx.log(level, level)
    return "logged"


@server.tool()
async def twice(ctx: Context) -> str | types.InputRequiredResult:
    """Asks by its result."""
    if ctx.request_state is None:
        return types.InputRequiredResult(input_requests={"who": FORM}, request_state="s1")
    return json.dumps({"state": ctx.request_state, "who": ctx.input_responses["who"].model_dump(exclude_none=True)})


@server.tool()
async def sampled(ctx: Context) -> str | types.InputRequiredResult:
    """Asks for a sample first, and then for a name and a sample."""
    match ctx.request_state:
        case None:
            return types.InputRequiredResult(input_requests={"hello": SAMPLE}, request_state="first")
        case "first":
            said = ctx.input_responses["hello"].content.text
            return types.InputRequiredResult(input_requests={"more": SAMPLE, "who": FORM}, request_state=f"then {said}")
        case state:
            who = ctx.input_responses["who"].content["name"]
            return f"{state}, {ctx.input_responses['more'].content.text}, {who}"


@server.tool()
async def insatiable() -> types.InputRequiredResult:
    return types.InputRequiredResult(input_requests={"more": SAMPLE})


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["stdio"]:
            server.run("stdio")
        case ["http", port]:
            server.run("streamable-http", port=int(port))

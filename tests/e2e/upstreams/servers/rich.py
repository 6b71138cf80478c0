"""An MCP server with one tool for each way a call can go: `rich.py stdio | http PORT | sse PORT`."""

import os
import sys

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("rich")
cancelled = []


@server.tool()
def echo(text: str) -> str:
    return text


@server.tool()
async def steps(count: int, ctx: Context) -> str:
    for step in range(count):
        await ctx.report_progress(step + 1, count, f"step {step + 1}")
        await ctx.info(f"did {step + 1}")
    return "done"


@server.tool()
def die() -> str:
    os._exit(7)


@server.tool()
async def hang(ctx: Context) -> str:
    await ctx.report_progress(1, None, "hanging")
    try:
        await anyio.sleep_forever()
    finally:
        cancelled.append(True)


@server.tool()
def times_cancelled() -> int:
    return len(cancelled)


@server.tool()
def fail() -> str:
    raise ToolError("no luck")


@server.tool()
async def grow(name: str, ctx: Context) -> str:
    server.add_tool(lambda: "new", name=name, description="grown")
    await ctx.session.send_tool_list_changed() if ctx.protocol_version < "2026" else await ctx.notify_tools_changed()
    return "grown"


@server.tool()
def header(name: str, ctx: Context) -> str:
    return (ctx.headers or {}).get(name, "")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["stdio"]:
            server.run("stdio")
        case ["http", port]:
            server.run("streamable-http", port=int(port))
        case ["sse", port]:
            server.run("sse", port=int(port))

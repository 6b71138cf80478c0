import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters


class Tester:
    """A real MCP client of a built-in server, and short ways to ask it; what it answers fits its schemas."""

    def __init__(self, client: Client, tools: dict[str, Any]) -> None:
        self.client = client
        self.tools = tools

    async def facts(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        result = await self.client.call_tool(name, arguments)
        assert not result.is_error, result.content[0].text
        Draft202012Validator(self.tools[name].output_schema).validate(result.structured_content)
        json.dumps(result.structured_content, allow_nan=False)
        return result.structured_content

    async def refusal(self, name: str, /, **arguments: Any) -> str:
        result = await self.client.call_tool(name, arguments)
        assert result.is_error, result.structured_content
        return result.content[0].text


@pytest.fixture
def running() -> Callable[..., AbstractAsyncContextManager[Tester]]:
    """`async with running(module, *arguments) as tester`, over standard input and output."""

    @asynccontextmanager
    async def run(module: str, *arguments: str) -> AsyncIterator[Tester]:
        command = ["-m", f"narthex_mcp.{module}", *arguments]
        server = StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))
        async with Client(server) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            for tool in tools.values():
                Draft202012Validator.check_schema(tool.input_schema)
                Draft202012Validator.check_schema(tool.output_schema)
                assert tool.annotations.open_world_hint is False
            yield Tester(client, tools)

    return run

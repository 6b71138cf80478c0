"""MCP servers that are installed, most of them by others; one that is missing fails the test and says what to do."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

READY_S = 60


def npm(package: str, *arguments: str, **env: str) -> dict[str, Any]:
    """The `mcpServers` entry that runs a package of the npm registry."""
    modules = Path(os.environ.get("NARTHEX_NODE_MODULES") or "node_modules").resolve()
    program = modules / package / "dist" / "index.js"
    assert program.is_file(), f"{program} is missing: run `npm install` first (.ci/run does)"
    return {"command": "node", "args": [str(program), *arguments], "env": env}


def python(module: str, *arguments: str, **env: str) -> dict[str, Any]:
    """The entry that runs a module of this environment."""
    assert find_spec(module), f"{module} is missing: run `pip install -e '.[servers]'` first (.ci/run does)"
    return {"command": sys.executable, "args": ["-m", module, *arguments], "env": env}


def fetch() -> dict[str, Any]:
    """The entry of mcp-server-fetch, which may fetch from this machine.

    It finds no Node, for with one its reader of HTML runs `npm install` in the middle of a call.
    """
    return python("mcp_server_fetch", "--allow-private-ips", PATH="/nowhere")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def listening(entry: dict[str, Any]) -> AsyncIterator[None]:
    """Runs a server that waits for connections, from when it says so on."""
    process = await asyncio.create_subprocess_exec(
        entry["command"], *entry["args"], env=os.environ | entry["env"],
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout
    try:
        async with asyncio.timeout(READY_S):
            while b" on port " not in (line := await process.stdout.readline()):
                assert line, f"{entry['args']} ended with status {await process.wait()}"
        drain = asyncio.create_task(process.stdout.read())
        yield
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    await drain

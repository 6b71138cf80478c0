import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = ROOT / "node_modules" / "@modelcontextprotocol"
DEMO = next((ROOT / "models" / "demo").glob("*.gguf"))


def needed(path: Path) -> Path:
    """These tests fail where something is missing; they never skip."""
    assert path.exists(), f"{path} is missing: run `npm install` in {ROOT} first (.ci/run does)"
    return path


@dataclass(frozen=True, slots=True)
class Stack:
    grpc: str
    http: str
    files: Path


@pytest.fixture(scope="session")
def node() -> str:
    return str(needed(ROOT / "node_modules" / ".bin" / "node"))


@pytest.fixture
async def stack(node: str, tmp_path: Path) -> AsyncIterator[Stack]:
    """`narthex serve` with the demo model and two upstreams from npm, on free ports."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "hello.txt").write_text("Hello from a file.\n")
    filesystem = str(needed(PACKAGES / "server-filesystem" / "dist" / "index.js"))
    everything = str(needed(PACKAGES / "server-everything" / "dist" / "index.js"))
    config = tmp_path / "mcp-config.json"
    config.write_text(
        json.dumps(
            {
                "mcpServers": {
                    "filesystem": {"command": node, "args": [filesystem, str(files)]},
                    "everything": {"command": node, "args": [everything, "stdio"]},
                }
            }
        )
    )
    async with serving("--model", f"demo={DEMO}", "--mcp-config", str(config)) as (grpc, http):
        yield Stack(grpc, http, files)


@pytest.fixture
async def demo() -> AsyncIterator[Stack]:
    """`narthex serve` as it is without any flag, on free ports."""
    async with serving() as (grpc, http):
        yield Stack(grpc, http, DEMO.parent / "workspace")


@asynccontextmanager
async def serving(*flags: str) -> AsyncIterator[tuple[str, str]]:
    """The gRPC and HTTP addresses of a `narthex serve`."""
    anywhere = [word for flag in ("--grpc", "--http", "--metrics") for word in (flag, "127.0.0.1:0")]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NARTHEX_")}
    command = [sys.executable, "-m", "narthex.cli.main", "serve", *anywhere, *flags]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environ)
    assert process.stdout
    try:
        async with asyncio.timeout(60):
            line = await process.stdout.readline()
        assert line.startswith(b"narthex ready"), line
        fields = dict(word.split("=", 1) for word in line.decode().split()[2:])
        yield fields["grpc"], fields["http"]
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(30):
            await process.wait()


@pytest.fixture
def program():
    """Runs a program to its end; gives its standard output, fails with what it told otherwise."""

    async def run(*command: str, cwd: Path = ROOT) -> str:
        environ = os.environ | {"PATH": os.pathsep.join([str(ROOT / "node_modules" / ".bin"), os.environ["PATH"]])}
        executable = shutil.which(command[0], path=environ["PATH"])
        assert executable, f"{command[0]} is missing on this machine"
        process = await asyncio.create_subprocess_exec(
            executable,
            *command[1:],
            cwd=cwd,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode() + output.decode()
        return output.decode()

    return run

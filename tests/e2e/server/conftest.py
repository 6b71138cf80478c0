"""A whole server as users run it: a process of its own, on free ports."""

import asyncio
import json
import queue
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from narthex.v1 import tool_pb2, upstream_pb2
from narthex.v1.tool_pb2_grpc import ToolServiceStub
from narthex.v1.upstream_pb2_grpc import UpstreamServiceStub
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "models" / "demo" / "tiny-tool-demo-q8_0.gguf"
RICH = ROOT / "tests" / "e2e" / "upstreams" / "servers" / "rich.py"
READY_SECONDS = 60


@dataclass
class Served:
    """A running server: its process, what its ready line said, and its log."""

    process: subprocess.Popen
    ready: dict[str, str]
    log: Path

    @property
    def grpc(self) -> str:
        return self.ready["grpc"]

    def metrics(self) -> dict[tuple[str, frozenset], float]:
        """Every sample of /metrics by name and labels."""
        with urllib.request.urlopen(f"http://{self.ready['metrics']}/metrics", timeout=10) as page:
            text = page.read().decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics()[name, frozenset(labels.items())]


def start(log: Path, *arguments: str, env: dict[str, str] | None = None) -> Served:
    """Starts a server and waits for its ready line."""
    with log.open("w") as stderr:
        command = [sys.executable, "-m", "narthex_server.main", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
        process = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=stderr, text=True, env=env)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: lines.put(process.stdout.readline()), daemon=True).start()
    line = lines.get(timeout=READY_SECONDS)
    assert line.startswith("narthex-server ready "), f"{line!r}\n{log.read_text()}"
    return Served(process, dict(part.split("=", 1) for part in line.split() if "=" in part), log)


def finish(served: Served) -> None:
    if served.process.poll() is None:
        served.process.terminate()
        try:
            served.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            served.process.kill()
            served.process.wait()
    served.process.stdout.close()


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory) -> Path:
    """One graph cache for all, so that the model's graph is built once."""
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="session")
def upstreams(tmp_path_factory) -> Path:
    """An mcp-config.json: the time server, the workspace server, one that misbehaves on demand, one that is not."""
    folder = tmp_path_factory.mktemp("upstreams")
    files = folder / "files"
    files.mkdir()
    (files / "notes.txt").write_text("The narthex is the porch of a church.\n")
    servers = {
        "time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]},
        "workspace": {"command": sys.executable, "args": ["-m", "narthex_mcp.workspace", str(files)]},
        "rich": {"command": sys.executable, "args": [str(RICH), "stdio"]},
        "absent": {"command": str(folder / "no-such-command")},
    }
    config = folder / "mcp-config.json"
    config.write_text(json.dumps({"mcpServers": servers}))
    return config


@pytest.fixture(scope="session")
def nothing(tmp_path_factory) -> Path:
    """An mcp-config.json without upstreams: the quickest server there is."""
    config = tmp_path_factory.mktemp("nothing") / "mcp-config.json"
    config.write_text('{"mcpServers": {}}')
    return config


@pytest.fixture
def upstreams_up() -> Callable[..., Awaitable[None]]:
    """Waits until every upstream that can come up has; a server with keys is asked with `metadata`."""
    return _upstreams_up


@pytest.fixture
async def settled(channel) -> None:
    """As `upstreams_up`, for the module's server."""
    await _upstreams_up(channel)


async def _upstreams_up(channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]] = ()) -> None:
    stub, tools = UpstreamServiceStub(channel), ToolServiceStub(channel)
    async with asyncio.timeout(60):
        async for _ in tools.WatchTools(tool_pb2.WatchToolsRequest(), metadata=metadata):
            found = (await stub.ListUpstreams(upstream_pb2.ListUpstreamsRequest(), metadata=metadata)).upstreams
            if all(one.state == upstream_pb2.UPSTREAM_STATE_READY for one in found if one.name != "absent"):
                return


@pytest.fixture(scope="module")
def launch(tmp_path_factory, cache_dir) -> Iterator[Callable[..., Served]]:
    """Starts servers that end with the module."""
    started: list[Served] = []

    def one(*arguments: str, env: dict[str, str] | None = None) -> Served:
        log = tmp_path_factory.mktemp("server") / "log"
        served = start(log, "--cache-dir", str(cache_dir), *arguments, env=env)
        started.append(served)
        return served

    yield one
    for served in started:
        finish(served)


@pytest.fixture
async def channel(server: Served):
    """A connection to the module's `server`."""
    async with grpc.aio.insecure_channel(server.grpc) as opened:
        yield opened


@pytest.fixture
def failure():
    """Awaits a call, or drains a stream, that fails; gives the error's code, text, reason and details."""

    async def caught(call) -> "Failure":
        with pytest.raises(grpc.aio.AioRpcError) as info:
            if hasattr(call, "__aiter__"):
                [_ async for _ in call]
            else:
                await call
        return Failure.of(info.value)

    return caught


@dataclass
class Failure:
    code: grpc.StatusCode
    text: str
    reason: str
    fields: list[str]
    metadata: dict[str, str]

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> "Failure":
        status = Status.FromString(dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b""))
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        for detail in status.details:
            detail.Unpack(info)
            detail.Unpack(request)
        fields = [violation.field for violation in request.field_violations]
        return cls(error.code(), error.details() or "", info.reason, fields, dict(info.metadata))


@pytest.fixture(scope="session")
def demo() -> str:
    """The option that serves the demo model."""
    return f"demo={DEMO}"

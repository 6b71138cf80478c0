"""A server and a bridge as users run them, a Prometheus that looks at both, and work for them."""

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest_asyncio
from narthex.v1 import generation_pb2, lot_pb2
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.lot_pb2_grpc import LotServiceStub

from tests.e2e.processes import started
from tests.system.prometheus import Prometheus, watching

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "demo" / "tiny-tool-demo-q8_0.gguf"
EMBEDDER = ROOT / "tests" / "golden" / "embed_bert"
SERVERS = ROOT / "tests" / "e2e" / "upstreams" / "servers"
SLOTS = 2
WAITING = 8
"""Requests that may wait; more are turned away."""

KV_MEMORY = 4 << 20
"""Bytes for keys and values of the demo: 682 tokens."""

LONG = "porch " * 161
"""652 tokens as a chat."""

FEW = 24
INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
ACCEPT = {"accept": "application/json, text/event-stream"}


@dataclass(frozen=True, slots=True)
class Stack:
    """A running narthex under a Prometheus."""

    folder: Path
    server: dict[str, Any]
    bridge: dict[str, Any]
    client: httpx.AsyncClient
    prometheus: Prometheus
    ids: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def pages(self) -> dict[str, str]:
        """Where the metrics of each process are."""
        return {
            "server": f"http://{self.server['metrics']}/metrics",
            "bridge": f"http://{self.bridge['http']}/metrics",
        }

    async def page(self, process: str) -> str:
        return (await self.client.get(self.pages[process])).text

    async def chat(self, text: str = "What time is it in Rome?", tokens: int = 32) -> httpx.Response:
        messages = [{"role": "user", "content": text}]
        asked = {"model": "demo", "messages": messages, "max_tokens": tokens, "temperature": 0}
        return await self.client.post("/v1/chat/completions", json=asked)

    async def embed(self, *texts: str) -> httpx.Response:
        return await self.client.post("/v1/embeddings", json={"model": "vectors", "input": texts})

    async def rpc(self, method: str, **params: object) -> dict[str, Any]:
        """A JSON-RPC request without a session; the answer."""
        asked = {"jsonrpc": "2.0", "id": next(self.ids), "method": method, "params": params}
        answer = (await self.client.post("/mcp/stream", json=asked)).text
        return json.loads(next(line for line in answer.splitlines() if line.startswith("data:"))[5:])

    async def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        return await self.rpc("tools/call", name=tool, arguments=arguments)

    async def long_chat(self) -> httpx.Response:
        """One that takes nearly all the room for keys and values."""
        return await self.chat(LONG, FEW)

    async def submit(self) -> None:
        """A ticket for a completion."""
        request = lot_pb2.SubmitRequest()
        request.work.generate.CopyFrom(generation_pb2.GenerationSpec(model="demo", text="porch"))
        async with grpc.aio.insecure_channel(self.server["grpc"]) as channel:
            await LotServiceStub(channel).Submit(request, timeout=30)

    async def crowd(self) -> None:
        """More than may wait, two of which have no time, and two of which go."""
        tasks = [asyncio.create_task(self.long_chat()) for _ in range(SLOTS + WAITING // 2)]
        request = generation_pb2.GenerateRequest(spec=generation_pb2.GenerationSpec(model="demo", text=LONG))
        request.spec.stopping.max_tokens = FEW
        async with grpc.aio.insecure_channel(self.server["grpc"]) as channel:
            generate = GenerationServiceStub(channel).Generate
            brief, left = ([generate(request, timeout=seconds) for _ in range(2)] for seconds in (0.05, None))
            tasks += [asyncio.create_task(self.long_chat()) for _ in range(2 * WAITING)]
            codes = [await call.code() for call in brief]
            for call in left:
                call.cancel()
        assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert {answer.status_code for answer in await asyncio.gather(*tasks)} == {200, 429}

    @contextlib.asynccontextmanager
    async def busy(self, work: Callable[[], Coroutine[Any, Any, object]], at_once: int) -> AsyncIterator[None]:
        """The work again and again within the block, so many at a time."""

        async def forever() -> None:
            while True:
                await work()

        tasks = [asyncio.create_task(forever()) for _ in range(at_once)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        failures = [one for one in results if not isinstance(one, asyncio.CancelledError)]
        assert failures == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("watched")
    (folder / "files").mkdir()
    (folder / "files" / "notes.txt").write_text("The narthex is the porch of a church.\n")
    workspace = {"command": sys.executable, "args": ["-m", "narthex_mcp.workspace", str(folder / "files")]}
    shaky = {
        "command": sys.executable,
        "args": [str(SERVERS / "shaky.py")],
        "breaker": {"failures": 5, "open_secs": 120},
    }
    servers = {"workspace": workspace, "shaky": shaky, "absent": {"command": str(folder / "no-such-command")}}
    (folder / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    models = {"demo": DEMO, "vectors": EMBEDDER, "far": "openai+http://127.0.0.1:9/v1"}
    options = [text for name, where in models.items() for text in ("--model", f"{name}={where}")]
    options += [
        "--default-model",
        "demo",
        "--max-slots",
        SLOTS,
        "--max-waiting",
        WAITING,
        "--kv-memory",
        KV_MEMORY,
        "--cache-read-only",
    ]
    options += ["--mcp-config", folder / "mcp.json", "--cache-dir", folder / "cache"]
    options += ["--audit", "--audit-path", folder / "audit"]
    anywhere = "127.0.0.1:0"
    async with contextlib.AsyncExitStack() as running:
        enter = running.enter_async_context
        at = ("--grpc", anywhere, "--metrics", anywhere)
        server = await enter(started("narthex_server.main", *at, *options, log=folder / "server.log"))
        at = ("--server", server["grpc"], "--http", anywhere, "--limits-address", "off")
        bridge = await enter(started("narthex_bridge.main", *at, log=folder / "bridge.log"))
        targets = {"narthex-server": server["metrics"], "narthex-bridge": bridge["http"]}
        prometheus = await enter(watching(folder, targets))
        client = await enter(httpx.AsyncClient(base_url=f"http://{bridge['http']}", timeout=60, limits=httpx.Limits()))
        yield Stack(folder, server, bridge, client, prometheus)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def worked(stack: Stack) -> AsyncIterator[Stack]:
    """The stack after, and during, some work of each kind; a session of MCP listens meanwhile."""

    async def a_bit_of_all() -> None:
        for answer in (await stack.chat(), await stack.embed("the porch", "of a church")):
            assert answer.status_code == 200, answer.text
        for tool, arguments in (
            ("workspace__read_file", {"path": "notes.txt"}),
            ("workspace__read_file", {"path": "missing.txt"}),
            ("shaky__echo", {"text": "yes"}),
            ("count_tokens", {"text": "how many are these"}),
        ):
            assert "result" in await stack.call(tool, **arguments)
        assert "error" in await stack.rpc("no/such/method")
        await stack.submit()
        assert (await stack.client.get("/mcp/list", headers={"origin": "https://elsewhere.example"})).status_code == 403

    await stack.crowd()
    async with listening(stack), stack.busy(a_bit_of_all, 1):
        yield stack


@contextlib.asynccontextmanager
async def listening(stack: Stack) -> AsyncIterator[None]:
    """A session whose stream is open within the block."""
    asked = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE}
    begun = await stack.client.post("/mcp", json=asked, headers=ACCEPT)
    session = {"mcp-session-id": begun.headers["mcp-session-id"], "mcp-protocol-version": "2025-06-18"}
    done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert (await stack.client.post("/mcp", json=done, headers=ACCEPT | session)).status_code == 202
    async with stack.client.stream("GET", "/mcp", headers=ACCEPT | session) as stream:
        assert stream.status_code == 200
        yield

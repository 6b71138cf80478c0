"""A server and a bridge with a policy, and short ways to call them."""

import asyncio
import json
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpx2
import pytest
from google.rpc import error_details_pb2
from grpc_status.rpc_status import from_call
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from narthex.keys import new_key
from narthex.v1 import tool_pb2 as wire
from narthex.v1 import tool_pb2_grpc

from tests.e2e.processes import READY_S, started


@dataclass
class Stack:
    root: Path
    grpc: str
    http: str
    metrics: str
    secrets: dict[str, str]

    @asynccontextmanager
    async def client(self, key: str, mode: str, **options) -> AsyncIterator[Client]:
        headers = {"authorization": f"Bearer {self.secrets[key]}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=READY_S) as http,
            Client(streamable_http_client(f"http://{self.http}/mcp", http_client=http), mode=mode, **options) as client,
        ):
            yield client

    @asynccontextmanager
    async def stub(self) -> AsyncIterator[tool_pb2_grpc.ToolServiceStub]:
        async with grpc.aio.insecure_channel(self.grpc) as channel:
            yield tool_pb2_grpc.ToolServiceStub(channel)

    def bearer(self, key: str) -> dict:
        return {"metadata": [("authorization", f"Bearer {self.secrets[key]}")], "timeout": READY_S}

    async def names(self, stub, key: str) -> list[str]:
        page = await stub.ListTools(wire.ListToolsRequest(), **self.bearer(key))
        return [tool.name for tool in page.tools]

    async def until(self, stub, key: str, condition: Callable[[list[str]], bool]) -> None:
        """Waits for the list of tools to be such a one."""
        async for _ in stub.WatchTools(wire.WatchToolsRequest(), **self.bearer(key)):
            if condition(await self.names(stub, key)):
                return

    async def call(self, stub, key: str, name: str, answer: bool | None = None, **arguments) -> list:
        """The events of a call; `answer` is what is said to a question."""
        return await self.call_raw(stub, key, name, json.dumps(arguments).encode(), answer)

    async def call_raw(self, stub, key: str, name: str, arguments: bytes, answer: bool | None = None) -> list:
        """As `call`, with the arguments as they go over the wire."""
        call_id = uuid4().hex
        asking = wire.CallToolRequest(
            name=name, arguments=arguments, call_id=call_id, answers_approvals=answer is not None
        )
        events = []
        async for event in stub.CallTool(asking, **self.bearer(key)):
            events.append(event)
            if event.HasField("input_required"):
                response = wire.InputResponse(
                    id=event.input_required.requests[0].id, approved=answer, reason="not today"
                )
                await stub.Respond(wire.RespondRequest(call_id=call_id, responses=[response]), **self.bearer(key))
        return events

    async def refused(self, *call, **arguments) -> tuple[grpc.StatusCode, str, dict[str, str], float]:
        """The status, the reason, its metadata and the seconds until a retry of a call that fails."""
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.call(*call, **arguments)
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        for detail in from_call(failed.value).details:
            detail.Unpack(info)
            detail.Unpack(retry)
        return failed.value.code(), info.reason, dict(info.metadata), retry.retry_delay.ToSeconds()

    def branches(self) -> str:
        return subprocess.check_output(["git", "branch", "--list"], cwd=self.root / "repository", text=True)

    async def metric(self, sample: str) -> float:
        page = await asyncio.to_thread(urllib.request.urlopen, f"http://{self.metrics}/metrics", timeout=10)
        lines = page.read().decode().splitlines()
        return float(next((line.rpartition(" ")[2] for line in lines if line.startswith(sample)), 0))

    def set(self, policy: str) -> None:
        new = self.root / "policy.new"
        new.write_text(policy)
        new.replace(self.root / "policy.toml")


@asynccontextmanager
async def policed(root: Path, servers: dict[str, Any], policy: str, wanted: set[str]) -> AsyncIterator[Stack]:
    """Runs the upstreams `servers` under a policy, with keys for four people of two tenants.

    It is there as soon as ann sees the tools `wanted`.
    """
    secrets, keys = {}, ""
    for name, tenant in (("ann", "acme"), ("bob", "acme"), ("deploy-7", "acme"), ("eve", "other")):
        secrets[name], key = new_key(name, tenant)
        keys += key.toml
    shared = {name: {"scope": "shared"} | entry for name, entry in servers.items()}  # one process each, for all tenants
    (root / "mcp.json").write_text(json.dumps({"mcpServers": shared}))
    (root / "keys.toml").write_text(keys)
    (root / "policy.toml").write_text(policy)
    token = {"NARTHEX_DELEGATE_TOKEN": "the secret that bridge and server share"}
    server = [
        "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--mcp-config", root / "mcp.json",
        "--policy", root / "policy.toml", "--api-key-file", root / "keys.toml",
    ]  # fmt: skip
    bridge = ["--http", "127.0.0.1:0", "--api-key-file", root / "keys.toml"]
    async with (
        started("narthex_server.main", *server, log=root / "server.log", **token) as ready,
        started("narthex_bridge.main", *bridge, "--server", ready["grpc"], log=root / "bridge.log", **token) as http,
    ):
        stack = Stack(root, ready["grpc"], http["http"], ready["metrics"], secrets)
        async with stack.stub() as stub:
            await stack.until(stub, "ann", lambda names: wanted <= set(names))
        yield stack

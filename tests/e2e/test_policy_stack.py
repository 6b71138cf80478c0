"""The policy of a running stack: real upstreams, callers over gRPC and over MCP, a file that changes under calls."""

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import grpc
import httpx2
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_status.rpc_status import from_call
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult
from narthex.keys import new_key
from narthex.v1 import tool_pb2 as wire
from narthex.v1 import tool_pb2_grpc

from tests.e2e.processes import READY_S, started

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY = """
[[rules]]
name = "no secrets"
effect = "deny"
message = "what is hidden stays so"
servers = ["files"]
arguments = {"/path" = {matches = "(.*/)?\\\\.[^./].*"}}

[[rules]]
name = "files of a tenant"
effect = "allow"
tenants = ["acme"]
servers = ["files"]
arguments = {"/path" = {paths_under = {roots = ["%(root)s/files"], relative_to = "%(root)s/files"}}}

[[rules]]
name = "look at the repository"
effect = "allow"
tenants = ["acme"]
servers = ["git"]
tools = ["git_status", "git_log"]
arguments = {"/repo_path" = {paths_under = ["%(root)s/repository"]}}

[[rules]]
name = "branches need a yes"
effect = "confirm"
message = "It changes the repository."
keys = ["ann"]
tools = ["git__git_create_branch"]
timeout = 60

[[rules]]
name = "the clock, now and then"
effect = "allow"
servers = ["time"]
rate = "2/hour"
"""


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
        call_id = uuid4().hex
        asking = wire.CallToolRequest(
            name=name, arguments=json.dumps(arguments).encode(), call_id=call_id, answers_approvals=answer is not None
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


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with a workspace, a repository, keys, a policy and a configuration."""
    root = tmp_path_factory.mktemp("stack").resolve()
    (root / "files").mkdir()
    (root / "files" / "note.txt").write_text("as agreed")
    (root / "files" / ".secret").write_text("hidden")
    (root / "outside.txt").write_text("outside")
    (root / "files" / "link.txt").symlink_to(root / "outside.txt")
    repository = root / "repository"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run(["git", "init", "-q", "-b", "main", str(repository)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True, cwd=repository)
    servers = {
        "files": {"command": sys.executable, "args": ["-m", "narthex_mcp.workspace", str(root / "files")]},
        "git": {"command": sys.executable, "args": ["-m", "mcp_server_git"]},
        "time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]},
    }
    (root / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(root):
    secrets, keys = {}, ""
    for name, tenant in (("ann", "acme"), ("bob", "acme"), ("eve", "other")):
        secrets[name], key = new_key(name, tenant)
        keys += key.toml
    (root / "keys.toml").write_text(keys)
    (root / "policy.toml").write_text(POLICY % {"root": root})
    shared = {"NARTHEX_DELEGATE_TOKEN": "the secret that bridge and server share"}
    server = [
        "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--mcp-config", root / "mcp.json",
        "--policy", root / "policy.toml", "--api-key-file", root / "keys.toml",
    ]  # fmt: skip
    bridge = ["--http", "127.0.0.1:0", "--api-key-file", root / "keys.toml"]
    async with (
        started("narthex_server.main", *server, log=root / "server.log", **shared) as ready,
        started("narthex_bridge.main", *bridge, "--server", ready["grpc"], log=root / "bridge.log", **shared) as http,
    ):
        stack = Stack(root, ready["grpc"], http["http"], ready["metrics"], secrets)
        async with stack.stub() as stub:
            wanted = {"files__read_file", "git__git_status", "time__get_current_time"}
            await stack.until(stub, "ann", lambda names: wanted <= set(names))
        yield stack


async def test_callers_over_grpc(stack):
    async with stack.stub() as stub:
        seen = {key: await stack.names(stub, key) for key in ("ann", "bob", "eve")}
        assert "git__git_create_branch" in seen["ann"] and "git__git_create_branch" not in seen["bob"]
        assert "git__git_commit" not in seen["ann"]
        assert set(seen["eve"]) == {"time__get_current_time", "time__convert_time"}

        text = (await stack.call(stub, "ann", "files__read_file", path="note.txt"))[-1].result.content
        assert b"as agreed" in text
        for path in ("../outside.txt", "link.txt", "/etc/passwd", "files/\0"):
            code, reason, metadata, _ = await stack.refused(stub, "ann", "files__read_file", path=path)
            assert (code, reason, metadata) == (grpc.StatusCode.PERMISSION_DENIED, "POLICY_DENIED", {"rule": "default"})
        code, _, metadata, _ = await stack.refused(stub, "ann", "files__read_file", path=".secret")
        assert metadata == {"rule": "no secrets", "message": "what is hidden stays so"}
        for key, name in (("eve", "files__read_file"), ("eve", "files::read_file"), ("ann", "git__git_commit")):
            code, reason, _, _ = await stack.refused(stub, key, name, path="note.txt")
            assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "TOOL_NOT_FOUND")

        repository = str(stack.root / "repository")
        assert (await stack.call(stub, "bob", "git__git_log", repo_path=repository))[-1].HasField("result")
        _, reason, _, _ = await stack.refused(stub, "bob", "git__git_log", repo_path=f"{repository}/../files")
        assert reason == "POLICY_DENIED"

        for _ in range(2):
            await stack.call(stub, "eve", "time__get_current_time", timezone="UTC")
        code, reason, metadata, wait = await stack.refused(stub, "eve", "time__get_current_time", timezone="UTC")
        assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "POLICY_RATE") and 1700 < wait <= 1800
        await stack.call(stub, "bob", "time__get_current_time", timezone="UTC")

        branch = {"repo_path": repository, "branch_name": "approved-by-grpc"}
        code, reason, metadata, _ = await stack.refused(stub, "ann", "git__git_create_branch", **branch)
        assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "APPROVAL_UNAVAILABLE")
        _, reason, _, _ = await stack.refused(stub, "ann", "git__git_create_branch", False, **branch)
        assert reason == "APPROVAL_DECLINED" and "approved-by-grpc" not in stack.branches()
        question, *_ = await stack.call(stub, "ann", "git__git_create_branch", True, **branch)
        approval = question.input_required.requests[0].approval
        assert (approval.name, json.loads(approval.arguments)) == ("git__git_create_branch", branch)
        assert approval.reason == "It changes the repository." and "approved-by-grpc" in stack.branches()
    decisions = 'narthex_policy_decisions_total{effect="%s",rule="%s"}'
    assert await stack.metric(decisions % ("deny", "no secrets")) == 1
    assert await stack.metric(decisions % ("confirm", "branches need a yes")) == 3
    assert await stack.metric('narthex_policy_limits_total{limit="rate",rule="the clock, now and then"}') == 1


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_mcp_clients_are_asked_for_a_yes(stack, mode):
    asked, says = [], ["accept"]

    async def on_elicitation(context, params):
        asked.append(params.message)
        return ElicitResult(action=says[0], content={} if says[0] == "accept" else None)

    branch = {"repo_path": str(stack.root / "repository"), "branch_name": f"approved-by-{mode}"}
    async with stack.client("ann", mode, elicitation_callback=on_elicitation) as client:
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert "git__git_create_branch" in names and "git__git_commit" not in names
        says[0] = "decline"
        with pytest.raises(MCPError, match="declined"):
            await client.call_tool("git__git_create_branch", branch)
        assert branch["branch_name"] not in stack.branches()
        says[0] = "accept"
        await client.call_tool("git__git_create_branch", branch)
        assert branch["branch_name"] in stack.branches() and len(asked) == 2
        assert "It changes the repository." in asked[1] and f'"branch_name": "{branch["branch_name"]}"' in asked[1]
        assert "as agreed" in (await client.call_tool("files__read_file", {"path": "note.txt"})).content[0].text
        with pytest.raises(MCPError, match="what is hidden stays so"):
            await client.call_tool("files__read_file", {"path": ".secret"})
    async with stack.client("ann", mode) as client:  # which cannot ask anybody
        with pytest.raises(MCPError, match="cannot be asked"):
            await client.call_tool("git__git_create_branch", branch)
    async with stack.client("bob", mode) as client:
        with pytest.raises(MCPError, match="there is no tool"):
            await client.call_tool("git__git_create_branch", branch)


async def test_rules_change_under_calls(stack):
    failures = []

    async def keep_calling(stub) -> None:
        while True:
            try:
                await stack.call(stub, "ann", "files__read_file", path="note.txt")
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.PERMISSION_DENIED):
                    failures.append(error)

    async with stack.stub() as stub:
        calling = asyncio.create_task(keep_calling(stub))
        try:
            stack.set('[[rules]]\nname = "clock"\neffect = "allow"\nservers = ["time"]\n')
            await stack.until(stub, "ann", lambda names: not any(name.startswith("files") for name in names))
            assert (await stack.refused(stub, "ann", "files__read_file", path="note.txt"))[1] == "TOOL_NOT_FOUND"
            stack.set("[[rules")
            stack.set("this is no policy")
            while not await stack.metric('narthex_policy_reloads_total{outcome="failed"}'):
                assert "time__get_current_time" in await stack.names(stub, "ann")
            stack.set(POLICY % {"root": stack.root})
            await stack.until(stub, "ann", lambda names: "files__read_file" in names)
        finally:
            calling.cancel()
        assert not failures
        assert await stack.metric('narthex_policy_reloads_total{outcome="ok"}') == 2

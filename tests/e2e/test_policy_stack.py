"""The policy of a running stack: real upstreams, callers over gRPC and over MCP, a file that changes under calls."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult

from tests.e2e.policed import policed

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


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with a workspace and a repository."""
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
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(root):
    servers = {
        "files": {"command": sys.executable, "args": ["-m", "narthex_mcp.workspace", str(root / "files")]},
        "git": {"command": sys.executable, "args": ["-m", "mcp_server_git"]},
        "time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]},
    }
    wanted = {"files__read_file", "git__git_status", "time__get_current_time"}
    async with policed(root, servers, POLICY % {"root": root}, wanted) as running:
        yield running


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

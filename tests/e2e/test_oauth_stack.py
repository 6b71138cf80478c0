"""Access tokens in front of a whole stack, from the authorization server to the tool."""

import asyncio
import contextlib
import json
import os
import sys

import httpx
import pytest

READY_S = 60
RESOURCE = "https://tools.example/mcp"


@pytest.fixture
async def http(authority, tmp_path):
    """A client of `narthex serve` with OAuth and a workspace."""
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "note.txt").write_text("as agreed")
    files = {"command": sys.executable, "args": ["-m", "narthex_mcp.workspace", str(tmp_path / "files")]}
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"files": files}}))
    (tmp_path / "narthex.toml").write_text(
        f"""
        [server]
        grpc = "127.0.0.1:0"
        metrics = "127.0.0.1:0"
        mcp_config = "mcp.json"

        [bridge]
        http = "127.0.0.1:0"
        log_level = "debug"

        [bridge.oauth]
        issuers = ["{authority.url}"]
        resource = "{RESOURCE}"
        tenant_claim = "org"
        tool_scope_prefix = "tools:"
        """
    )
    with (tmp_path / "serve.log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "narthex.cli.main", "serve", "--config", str(tmp_path / "narthex.toml"),
            stdout=asyncio.subprocess.PIPE, stderr=log, env=dict(os.environ),
        )  # fmt: skip
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), READY_S)).decode()
        assert " ready " in line, (tmp_path / "serve.log").read_text()
        fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
        async with httpx.AsyncClient(base_url=f"http://{fields['http']}", timeout=READY_S) as client:
            yield client
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.communicate(), READY_S)


async def test_a_token_reaches_the_tools_of_its_scopes_and_is_nowhere_else(http, authority, tmp_path):
    def bearer(scope, **claims):
        token = authority.token(aud=RESOURCE, org="blue", scope=scope, **claims)
        return token, {"authorization": f"Bearer {token}"}

    token, narrow = bearer("tools:files__list_*")
    _, wide = bearer("tools:*")
    assert (await http.get("/mcp/list")).status_code == 401
    for headers, there in ((narrow, False), (wide, True)):
        async with asyncio.timeout(READY_S):  # upstreams may come up after the server
            while "files__list_directory" not in (
                shown := [tool["name"] for tool in (await http.get("/mcp/list", headers=headers)).json()["tools"]]
            ):
                pass
        assert ("files__read_file" in shown) is there
        call = {"name": "files__read_file", "arguments": {"path": "note.txt"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
        text = (await http.post("/mcp/stream", json=body, headers={**headers, "x-request-id": "read"})).text
        assert ("as agreed" in text) is there
    log = (tmp_path / "serve.log").read_text()
    assert f"caller={authority.url} ann" in log
    assert token not in log and token.split(".")[2] not in log

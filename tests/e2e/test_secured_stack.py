"""TLS, client certificates and API keys on every connection of a running stack."""

import asyncio
import ipaddress
import json
import re
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
from cryptography import x509
from narthex.keys import new_key
from narthex.scopes import ToolScope
from narthex.v1 import tool_pb2, tool_pb2_grpc

from tests.e2e.authority import Authority
from tests.e2e.processes import READY_S, started

DELEGATE = "the secret that bridge and server share"
TOOL = "files__read_file"
INITIALIZE = {
    "jsonrpc": "2.0", "id": 1, "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}  # fmt: skip
READ = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": TOOL, "arguments": {"path": "note.txt"}}}
NO_PRINCIPAL = ("x-narthex-principal", "no JSON at all")
"""Refused where it is read, so that a call which carries it and passes shows that nobody believed it."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A gateway and a bridge behind TLS, and what a legitimate caller has."""

    authority: Authority
    grpc: str
    http: str
    key: str
    log: Path
    limited: str = ""
    """The secret of a key that is for listing files alone."""

    def channel(self, certificate: str = "") -> grpc.aio.Channel:
        pair = [self.authority.read(f"{certificate}.{kind}") for kind in ("key", "pem")] if certificate else []
        return grpc.aio.secure_channel(self.grpc, grpc.ssl_channel_credentials(self.authority.read("ca.pem"), *pair))

    def client(self, key: str = "") -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"https://{self.http}",
            verify=ssl.create_default_context(cafile=self.authority.folder / "ca.pem"),
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=READY_S,
        )

    def caller(self, request_id: str) -> str:
        """For whom the server did what this request asked, as its log says."""
        return next(
            line.rpartition("caller=")[2] for line in self.log.read_text().splitlines() if f"={request_id} " in line
        )


@pytest.fixture
def configured(tmp_path):
    """A folder with certificates, a key file, an upstream and a narthex.toml that uses them; and the keys' secrets."""
    authority = Authority(tmp_path)
    authority.issue("server", x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost"))
    authority.issue("client")
    secret, key = new_key("ann", "t1")
    limited, limited_key = new_key("bob", "t1", tools=ToolScope(("files__list_*",)))
    (tmp_path / "keys.toml").write_text(key.toml + limited_key.toml)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "note.txt").write_text("as agreed")
    files = {"command": sys.executable, "args": ["-m", "narthex_mcp.workspace", str(tmp_path / "files")]}
    (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": {"files": files}}))
    (tmp_path / "narthex.toml").write_text(
        """
        [server]
        grpc = "127.0.0.1:0"
        metrics = "127.0.0.1:0"
        mcp_config = "mcp.json"
        api_key_file = "keys.toml"
        tls = { cert = "server.pem", key = "server.key", client_ca = "ca.pem" }

        [bridge]
        http = "127.0.0.1:0"
        api_key_file = "keys.toml"
        tls = { cert = "server.pem", key = "server.key" }
        server_tls = { ca = "ca.pem", cert = "client.pem", key = "client.key" }
        """
    )
    return authority, secret, limited


@pytest.fixture
async def stack(configured, tmp_path):
    authority, secret, limited = configured
    config, log = ("--config", tmp_path / "narthex.toml"), tmp_path / "server.log"
    shared = {"NARTHEX_DELEGATE_TOKEN": DELEGATE}
    async with (
        started("narthex_server.main", *config, log=log, **shared) as server,
        started(
            "narthex_bridge.main", *config, "--server", server["grpc"], log=tmp_path / "bridge.log", **shared
        ) as bridge,
    ):
        stack = Stack(authority, server["grpc"], bridge["http"], secret, log, limited)
        await offered(stack)
        yield stack


async def offered(stack):
    """Waits until the tool is there: upstreams may come up after the server."""
    bearer = ("authorization", f"Bearer {stack.key}")
    async with stack.channel("client") as channel:
        watch = tool_pb2_grpc.ToolServiceStub(channel).WatchTools
        async for _ in watch(tool_pb2.WatchToolsRequest(), metadata=[bearer], timeout=READY_S):
            if TOOL in await names(channel, bearer):
                return
    raise AssertionError(f"no {TOOL}")


async def names(channel, *metadata):
    stub = tool_pb2_grpc.ToolServiceStub(channel)
    page = await stub.ListTools(tool_pb2.ListToolsRequest(), metadata=metadata, timeout=READY_S)
    return [tool.name for tool in page.tools]


async def test_grpc_takes_a_certificate_and_a_key(stack):
    bearer = ("authorization", f"Bearer {stack.key}")
    async with stack.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await names(channel, bearer)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    async with stack.channel("client") as channel:
        for wrong in ((), (("authorization", "Bearer nx_wrong"),)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await names(channel, *wrong)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert TOOL in await names(channel, bearer)


async def test_https_takes_a_key(stack):
    async with stack.client() as nobody, stack.client(stack.key) as ann:
        for client, status in ((nobody, 401), (ann, 200)):
            assert (await client.post("/mcp", json=INITIALIZE)).status_code == status
            assert (await client.post("/mcp/stream", json=READ)).status_code == status
            assert (await client.get("/mcp/list")).status_code == status
        assert TOOL in [tool["name"] for tool in (await ann.get("/mcp/list")).json()["tools"]]
        text = (await ann.post("/mcp/stream", json=READ, headers={"x-request-id": "of-ann"})).text
        assert "as agreed" in text and "event: done" in text
    assert stack.caller("of-ann") == "ann"
    async with httpx.AsyncClient() as plain:
        with pytest.raises(httpx.HTTPError):
            await plain.get(f"http://{stack.http}/healthz")


async def test_only_a_delegate_speaks_for_others(stack):
    claim = ("x-narthex-principal", json.dumps({"name": "root", "tenant": "t2"}))
    async with stack.channel("client") as channel:
        for key, principal, caller in ((stack.key, claim, "ann"), (DELEGATE, claim, "root")):
            await names(channel, ("authorization", f"Bearer {key}"), principal, ("x-request-id", f"as-{caller}"))
            assert stack.caller(f"as-{caller}") == caller
        assert TOOL in await names(channel, ("authorization", f"Bearer {stack.key}"), NO_PRINCIPAL)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await names(channel, ("authorization", f"Bearer {DELEGATE}"), NO_PRINCIPAL)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    async with stack.client(stack.key) as ann:
        text = (await ann.post("/mcp/stream", json=READ, headers=[claim, ("x-request-id", "claimed")])).text
        assert "as agreed" in text
    assert stack.caller("claimed") == "ann"


async def test_serve_runs_a_secured_stack(configured, tmp_path):
    authority, secret, _ = configured
    log = tmp_path / "serve.log"
    async with started("narthex.cli.main", "serve", "--config", tmp_path / "narthex.toml", log=log) as ready:
        stack = Stack(authority, ready["grpc"], ready["http"], secret, log)
        await offered(stack)
        async with stack.client() as nobody, stack.client(secret) as ann:
            assert (await nobody.get("/mcp/list")).status_code == 401
            text = (await ann.post("/mcp/stream", json=READ, headers={"x-request-id": "served"})).text
            assert "as agreed" in text
        assert stack.caller("served") == "ann"


async def test_a_key_reaches_its_tools_alone_on_http_and_on_grpc(stack):
    bearer = ("authorization", f"Bearer {stack.limited}")
    async with stack.channel("client") as channel:
        shown = await names(channel, bearer)
        assert shown == ["files__list_directory"]
        call = tool_pb2_grpc.ToolServiceStub(channel).CallTool
        told = []
        for tool in (TOOL, "files::read_file", "no_such"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                request = tool_pb2.CallToolRequest(name=tool, arguments=b'{"path":"note.txt"}')
                [event async for event in call(request, metadata=[bearer], timeout=READY_S)]
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
            told.append(refused.value.details().replace(tool, "X"))
        assert len(set(told)) == 1  # what is forbidden and what is not there cannot be told apart
    async with stack.client(stack.limited) as bob:
        assert [tool["name"] for tool in (await bob.get("/mcp/list")).json()["tools"]] == shown
        text = (await bob.post("/mcp/stream", json=READ)).text
        assert "event: error" in text and "there is no tool named" in text and "as agreed" not in text
        listing = {**READ, "params": {"name": shown[0], "arguments": {"path": "."}}}
        assert "note.txt" in (await bob.post("/mcp/stream", json=listing)).text


async def test_a_bridge_with_a_certificate_of_others_is_told_so(stack, tmp_path):
    (tmp_path / "others").mkdir()
    others = Authority(tmp_path / "others")
    others.issue("client")
    log = tmp_path / "stranger.log"
    flags = ("--server-tls-cert", others.folder / "client.pem", "--server-tls-key", others.folder / "client.key")
    command = ("narthex_bridge.main", "--config", tmp_path / "narthex.toml", "--server", stack.grpc, *flags)
    async with (
        started(*command, log=log, NARTHEX_DELEGATE_TOKEN=DELEGATE) as stranger,
        Stack(stack.authority, "", stranger["http"], stack.key, log).client(stack.key) as ann,
    ):
        assert (await ann.get("/readyz")).status_code == 503
        answer = await ann.get("/mcp/list")
        assert answer.status_code == 503
        data = answer.json()["error"]["data"]
        assert (data["reason"], data["retryable"]) == ("UNAVAILABLE", True)
    assert "does it take the certificate of server_tls.cert" in log.read_text()


@pytest.mark.parametrize(
    ("module", "flags", "told"),
    [
        ("narthex_server.main", ("--tls-key", "client.key"), "tls: .*client.key are not a certificate chain and its"),
        ("narthex_server.main", ("--tls-client-ca", "absent.pem"), "tls: .*absent.pem: cannot be read"),
        ("narthex_bridge.main", ("--tls-key", "client.key"), "tls: .*client.key are not a certificate chain and its"),
        ("narthex_bridge.main", ("--server-tls-ca", "mcp.json"), "server_tls: .*mcp.json holds no certificates"),
    ],
)
async def test_tls_files_that_cannot_be_used_are_told(configured, tmp_path, module, flags, told):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, "--config", "narthex.toml", *flags,
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, errors = await asyncio.wait_for(process.communicate(), READY_S)
    assert process.returncode == 2
    assert re.search(told, errors.decode())


async def test_nothing_listens_beyond_this_machine_by_accident(tmp_path):
    for module in (
        ("narthex_bridge.main",),
        ("narthex.cli.main", "serve", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"),
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", *module, "--http", "0.0.0.0:0",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, errors = await asyncio.wait_for(process.communicate(), READY_S)
        assert process.returncode == 2
        assert "--allow-anyone" in errors.decode() and "api_key_file" in errors.decode()
    command = ("narthex.cli.main", "serve", "--http", "0.0.0.0:0", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
    async with started(*command, "--allow-anyone", log=tmp_path / "open.log") as ready:
        assert ready["http"].startswith("0.0.0.0:")

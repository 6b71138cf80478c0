"""Who shows what to upstreams behind a URL, and that nobody else sees it."""

import asyncio
import json
import logging
import ssl
import sys

import pytest
from narthex_server.errors import NarthexError, Unauthenticated
from narthex_server.principal import LOCAL, Principal
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import CallContext, ToolResult

from tests.e2e.upstreams.guarded import Guarded, served

CREDENTIALS = {"type": "client_credentials", "client_id": "narthex", "client_secret": "the client's secret"}


@pytest.fixture
async def guarded():
    app = Guarded()
    async with served(app) as port:
        app.url = f"http://127.0.0.1:{port}"
        yield app


def text(events) -> str:
    assert isinstance(events[-1], ToolResult), events
    return json.loads(events[-1].content)[0]["text"]


def entry(guarded: Guarded, **auth: object) -> dict:
    return {"far": {"url": f"{guarded.url}/mcp", "auth": {**CREDENTIALS, **auth}}}


async def called_with(running, token: str | None, principal: Principal = LOCAL):
    tokens = {} if token is None else {"far": token}
    context = CallContext(principal, "request", upstream_tokens=tokens)
    return [event async for event in running.catalog.call("far__whoami", b"{}", context)]


async def test_a_token_is_found_by_metadata_and_asked_for_the_resource(guarded, gateway):
    guarded.given, guarded.accepted = ["first-token"], {"first-token"}
    async with gateway(entry(guarded, scope="a b")) as running:
        calls = await asyncio.gather(*(running.call("far__whoami") for _ in range(5)))
    assert {text(events) for events in calls} == {"Bearer first-token"}
    resource = f"{guarded.url}/mcp"
    assert guarded.asked == [
        {
            "grant_type": "client_credentials",
            "resource": resource,
            "scope": "a b",
            "basic": ("narthex", "the client's secret"),
        }
    ]


async def test_a_given_token_url_and_a_secret_in_the_form(guarded, gateway, tmp_path):
    guarded.given, guarded.accepted, guarded.well_known = ["token-of-file"], {"token-of-file"}, False
    (tmp_path / "secret").write_text("from a file\n")
    file = {"file": str(tmp_path / "secret")}
    auth = {"token_url": f"{guarded.url}/token", "client_secret": file, "method": "post", "resource": "urn:x"}
    async with gateway(entry(guarded, **auth)) as running:
        assert text(await running.call("far__whoami")) == "Bearer token-of-file"
    (asked,) = guarded.asked
    assert (asked["client_secret"], asked["client_id"], asked["resource"]) == ("from a file", "narthex", "urn:x")


async def test_a_token_that_is_no_longer_taken_is_renewed_once(guarded, gateway):
    guarded.given, guarded.accepted = ["first-token", "second-token"], {"first-token"}
    async with gateway(entry(guarded)) as running:
        guarded.accepted = {"second-token"}
        calls = await asyncio.gather(*(running.call("far__whoami") for _ in range(5)))
        assert {text(events) for events in calls} == {"Bearer second-token"}
        assert len(guarded.asked) == 2


async def test_a_token_is_not_used_to_its_last_second(guarded, gateway):
    guarded.given = ["first-token", "second-token", "third-token"]
    guarded.accepted, guarded.lives = set(guarded.given), 0
    async with gateway(entry(guarded)) as running:
        await running.call("far__whoami")
    assert len(guarded.asked) > 1 and len(set(guarded.seen)) > 1


@pytest.mark.parametrize("refusal", [(400, b'{"error":"invalid_client"}'), (500, b"<html>"), (200, b"no json at all")])
async def test_why_there_is_no_token_is_told_without_what_was_sent(guarded, gateway, refusal):
    guarded.refusal = refusal
    async with gateway(entry(guarded)) as running:
        status = running.status("far")
        assert status.state is ServerState.UNHEALTHY
        assert "token endpoint" in status.reason and "secret" not in status.reason, status
        with pytest.raises(NarthexError) as caught:
            await running.call("far__whoami")
        assert "secret" not in str(caught.value)


async def test_callers_use_their_own_tokens(guarded, gateway):
    guarded.accepted = {"listing-token", "token-of-ada", "token-of-bob"}
    far = {
        "url": f"{guarded.url}/mcp",
        "headers": {"Authorization": "Bearer listing-token"},
        "auth": {"type": "passthrough"},
    }
    async with gateway({"far": far}) as running:
        names = ["token-of-ada", "token-of-bob"] * 5
        calls = await asyncio.gather(*(called_with(running, name) for name in names))
        assert [text(events) for events in calls] == [f"Bearer {name}" for name in names]
        with pytest.raises(Unauthenticated) as missing:
            await called_with(running, None)
        assert "x-narthex-upstream-token-far" in missing.value.message
        assert missing.value.reason == "UPSTREAM_TOKEN_REQUIRED"
        with pytest.raises(Unauthenticated) as stale:
            await called_with(running, "token-of-eve")
        assert "does not take" in stale.value.message and "eve" not in stale.value.message
        assert running.status("far").state is ServerState.READY
        assert text(await called_with(running, "token-of-ada")) == "Bearer token-of-ada"


async def test_a_rotated_file_counts_when_connected_again(guarded, gateway, tmp_path):
    guarded.accepted = {"the-new-token"}
    token = tmp_path / "token"
    token.write_text("the-old-token\n")
    file = {"file": str(token)}
    source = {"type": "Http", "url": f"{guarded.url}/mcp"}
    servers = {"servers": [{"name": "far", "source": source, "bearer_token": file}]}
    async with gateway(servers) as running:
        assert "401" in running.status("far").reason
        token.write_text("the-new-token\n")
        await running.catalog.reconnect("far")
        assert text(await running.call("far__whoami")) == "Bearer the-new-token"
        token.unlink()
        status = await running.catalog.reconnect("far")
        assert status.state is ServerState.UNHEALTHY and "secret file" in status.reason


async def test_secrets_are_nowhere_though_everybody_repeats_them(guarded, gateway, caplog, tmp_path):
    """Planted in headers, environment, files, URLs and credentials; the servers print, log and answer with them."""
    caplog.set_level(logging.DEBUG, "narthex_server")
    planted = {"header": "hdr-5f1c", "env": "env-77aa", "file": "fil-c0de", "query": "qry-beef", "client": "cli-4dad"}
    (tmp_path / "file").write_text(planted["file"])
    guarded.page = " ".join(planted.values()).encode()
    guarded.refusal = (400, " ".join(planted.values()).encode())
    shouting = (
        "import os, sys; sys.stderr.write(os.environ['K'] + os.environ['F']); print(os.environ['K']); sys.exit(3)"
    )
    url = f"{guarded.url}/mcp?key={planted['query']}"
    servers = {
        "headers": {"url": url, "headers": {"X-Key": planted["header"], "X-File": {"file": str(tmp_path / "file")}}},
        "tokens": {"url": url, "auth": {**CREDENTIALS, "client_secret": planted["client"]}},
        "old": {"type": "sse", "url": url, "headers": {"Authorization": f"Bearer {planted['header']}"}},
        "socket": {"url": url.replace("http", "ws"), "headers": {"X-Key": planted["header"]}},
        "child": {
            "command": sys.executable,
            "args": ["-c", shouting],
            "env": {"K": planted["env"], "F": {"file": str(tmp_path / "file")}},
        },
    }
    async with gateway(servers) as running:
        statuses = running.catalog.servers()
        assert all(status.state is ServerState.UNHEALTHY for status in statuses)
        told = repr(statuses)
        for name in servers:
            with pytest.raises(NarthexError) as caught:
                await running.call(f"{name}__anything")
            told += repr(caught.value) + caught.value.message + str(caught.value.metadata)
    told += "".join(record.getMessage() + (record.exc_text or "") for record in caplog.records if _ours(record))
    assert not [name for name, secret in planted.items() if secret in told], told


async def test_a_failing_tool_does_not_tell_what_its_server_was_told(gateway):
    code = """
import os
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
server = MCPServer("leaky")
@server.tool()
def fail() -> str:
    raise ToolError("cannot sign in with " + os.environ["KEY"])
server.run("stdio")
"""
    leaky = {"command": sys.executable, "args": ["-W", "ignore", "-c", code], "env": {"KEY": "env-77aa-bb"}}
    async with gateway({"leaky": leaky}) as running:
        (result,) = await running.call("leaky__fail")
        assert result.is_error and "cannot sign in with ***" in text([result])


def _ours(record: logging.LogRecord) -> bool:
    return record.name.startswith("narthex")


async def test_tls_with_an_authority_a_client_certificate_and_another_name(gateway, authority):
    app, folder = Guarded(), authority.folder
    app.accepted = {"token"}
    options = {
        "ssl_certfile": folder / "elsewhere.pem",
        "ssl_keyfile": folder / "elsewhere.key",
        "ssl_ca_certs": folder / "ca.pem",
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
    }
    ca = {"ca": str(folder / "ca.pem")}
    pair = {"cert": str(folder / "client.pem"), "key": str(folder / "client.key")}
    async with served(app, **options) as port:
        url = {"url": f"https://127.0.0.1:{port}/mcp", "headers": {"Authorization": "Bearer token"}}
        servers = {
            "good": {**url, "tls": {**ca, **pair, "server_name": "inner.example"}},
            "careless": {**url, "tls": {**pair, "verify": False}},
            "other": {**url, "tls": {**ca, **pair}},
            "stranger": {**url, "tls": {**ca, "server_name": "inner.example"}},
            "usual": url,
            "broken": {**url, "tls": {"ca": str(folder / "client.key")}},
            "gone": {**url, "tls": {"ca": str(folder / "nowhere.pem")}},
        }
        async with gateway(servers) as running:
            statuses = {status.name: status for status in running.catalog.servers()}
            ready = {name for name, status in statuses.items() if status.state is ServerState.READY}
            assert ready == {"good", "careless"}, statuses

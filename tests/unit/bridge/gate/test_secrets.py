"""Secrets that a bridge is given are in no log, metric or answer of its own."""

import asyncio
import contextlib
import logging
import os
import sys

import httpx
import pytest
from narthex.keys import new_key

DEADLINE_S = 15
OWN = "the bridge's own credential"


@pytest.fixture
async def busy(authority, tools, tmp_path, resource):
    """A bridge process at debug level with keys and OAuth: its client, and what it has logged once it has ended."""
    secret, key = new_key("ann", "t1")
    (tmp_path / "keys.toml").write_text(key.toml)
    log = tmp_path / "bridge.log"
    with log.open("w") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-X", "dev", "-W", "ignore", "-m", "narthex_bridge.main", "--http", "127.0.0.1:0",
            "--server", tools.address, "--api-key-file", str(tmp_path / "keys.toml"), "--log-level", "debug",
            "--oauth-issuers", authority.url, "--oauth-resource", resource, "--limits-principal", "50/minute",
            "--redis", "redis://:hunter2@127.0.0.1:1/0",
            stdout=asyncio.subprocess.PIPE, stderr=stderr,
            env=os.environ | {"NARTHEX_DELEGATE_TOKEN": OWN},
        )  # fmt: skip
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)).decode()
        url = "http://" + line.strip().partition("http=")[2]

        async def ended():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await asyncio.wait_for(process.communicate(), DEADLINE_S)
            return log.read_text()

        async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as http:
            yield http, secret, ended
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_no_secret_is_logged_counted_or_sent_back(busy, authority, token, tools):
    http, secret, ended = busy
    good, expired, foreign = token(), token(exp=1), token(iss="https://elsewhere.example")
    authority.add_key("two")
    unknown = token(kid="two", aud="https://elsewhere.example/mcp")
    wrong = "nx_not-a-key-of-anybody"
    answers = []
    for credential in (secret, good, expired, foreign, unknown, wrong, "Zm9v.YmFy.YmF6c2VjcmV0"):
        for headers in ({"authorization": f"Bearer {credential}"}, {"x-api-key": credential}):
            for name in ("echo", "broken", "down", "nothing"):
                body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name}}
                answers.append(await http.post("/mcp/stream", json=body, headers=headers))
            answers.append(await http.post(f"/mcp?access_token={credential}", content=b"{", headers=headers))
            answers.append(await http.get("/mcp/list", headers=headers))
    authority.down = True
    answers.append(await http.post("/mcp", json={}, headers={"authorization": f"Basic {wrong}"}))
    metrics = await http.get("/metrics", headers={"authorization": f"Bearer {secret}"})
    assert {answer.status_code for answer in answers} == {200, 401, 415}
    log = await ended()
    assert "DEBUG" in log or "failed" in log  # it was not silent
    seen = log + metrics.text + "".join(f"{answer.headers} {answer.text}" for answer in answers)
    for hidden in (secret, OWN, "hunter2", wrong, *(t for t in (good, expired, foreign, unknown))):
        assert hidden not in seen
        assert hidden.split(".")[-1] not in seen
    assert any(call["authorization"] == f"Bearer {OWN}" for call in tools.metadata)
    assert not any(t in str(tools.metadata) for t in (secret, good))


async def test_configurations_and_callers_do_not_print_secrets(start_bridge, tmp_path, caplog):
    secret, key = new_key("ann")
    (tmp_path / "keys.toml").write_text(key.toml)
    caplog.set_level(logging.DEBUG)
    async with start_bridge(api_key_file=tmp_path / "keys.toml") as bridge:
        session = await bridge.session(authorization=f"Bearer {secret}")
        await bridge.rpc("tools/call", {"name": "broken"}, **session)
    assert not [r for r in caplog.records if secret in r.getMessage() and not r.name.startswith("httpcore")]

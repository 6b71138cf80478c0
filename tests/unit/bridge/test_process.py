"""The bridge as a process, and how it ends."""

import asyncio
import contextlib
import json
import signal
import socket
import sys

import httpx
import pytest
from narthex_bridge.config.arguments import from_arguments

DEADLINE_S = 15


@pytest.fixture
def spawn():
    @contextlib.asynccontextmanager
    async def spawn(*arguments):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "narthex_bridge.main",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    return spawn


async def ready_url(process):
    line = (await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)).decode()
    assert line.startswith("narthex-bridge ready http=127.0.0.1:"), line
    return "http://" + line.strip().partition("http=")[2]


async def test_it_says_when_it_is_ready_and_ends_on_sigterm(spawn, tools):
    async with spawn("--http", "127.0.0.1:0", "--server", tools.address) as process:
        url = await ready_url(process)
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/readyz")).status_code == 200
            async with http.stream("GET", "/sse") as stream:
                lines = stream.aiter_lines()
                assert await anext(lines) == "event: endpoint"
                process.send_signal(signal.SIGTERM)
                assert [line async for line in lines if line.startswith("event")] == []
        assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0


async def test_it_says_where_clients_connect_to(spawn, tools):
    async with spawn("--http", "127.0.0.1:0", "--server", tools.address) as process:
        url = await ready_url(process)
        async with asyncio.timeout(DEADLINE_S):
            while f" {url}/mcp;" not in (line := (await process.stderr.readline()).decode()):
                assert line


async def test_calls_in_work_finish_before_it_ends(spawn, tools):
    async with spawn("--http", "127.0.0.1:0", "--server", tools.address) as process:
        url = await ready_url(process)
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "hang"}}
        async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as http:
            call = asyncio.create_task(http.post("/mcp/stream", json=message))
            await asyncio.wait_for(tools.hanging.wait(), DEADLINE_S)
            process.send_signal(signal.SIGTERM)
            tools.release.set()
            assert "released" in (await call).text
        assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0


async def test_calls_over_the_grace_are_ended_with_an_error(start_bridge, tools):
    async with start_bridge(shutdown_grace=0.1) as bridge:
        session = await bridge.session()
        call = asyncio.create_task(bridge.rpc("tools/call", {"name": "hang"}, **session))
        await asyncio.wait_for(tools.hanging.wait(), DEADLINE_S)
        await bridge.stop()
        error = (await call).json()["error"]
        assert (error["code"], error["data"]["reason"]) == (503, "DRAINING")
        await asyncio.wait_for(tools.cancelled.wait(), DEADLINE_S)


async def test_a_port_in_use_names_the_option(spawn):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with spawn("--http", f"127.0.0.1:{taken.getsockname()[1]}") as process:
            _, errors = await asyncio.wait_for(process.communicate(), DEADLINE_S)
            assert process.returncode == 4
            assert b"--http" in errors


async def test_bad_usage_exits_with_two(spawn, tmp_path):
    broken = tmp_path / "keys.toml"
    broken.write_text("[[")
    for arguments in (["--nonsense"], ["--http", "x"], ["--http", "127.0.0.1:0", "--api-key-file", str(broken)]):
        async with spawn(*arguments) as process:
            _, errors = await asyncio.wait_for(process.communicate(), DEADLINE_S)
            assert process.returncode == 2
            assert b"Traceback" not in errors


@pytest.mark.parametrize(
    "arguments",
    [["--http", "127.0.0.1:99"], ["--mcp-http-port", "99"], ["--http-mcp-port=99"], ["--mcp-http-port=99"]],
)
def test_old_spellings_of_the_port_are_understood(arguments):
    assert str(from_arguments(arguments).http) == "127.0.0.1:99"


async def test_metrics_count_by_route_pattern(bridge):
    session = await bridge.session()
    await bridge.rpc("tools/call", {"name": "echo"}, **session)
    await bridge.rpc("unknown/method", **session)
    await bridge.http.post(
        "/mcp/stream", content=json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x"}})
    )
    await bridge.http.get("/some/path")
    text = (await bridge.http.get("/metrics")).text
    assert "_created" not in text
    for line in (
        'narthex_bridge_requests_total{method="POST",route="/mcp",status="200"} 3.0',
        'narthex_bridge_requests_total{method="GET",route="other",status="404"} 1.0',
        'narthex_bridge_rpc_total{code="0",method="tools/call"} 1.0',
        'narthex_bridge_rpc_total{code="-32602",method="tools/call"} 1.0',
        'narthex_bridge_rpc_total{code="-32601",method="other"} 1.0',
        'narthex_bridge_events_total{route="/mcp/stream"} 1.0',
        'narthex_bridge_added_seconds_count{route="/mcp"} 1.0',
        'narthex_bridge_streams{route="/mcp/stream"} 0.0',
        "narthex_bridge_sessions 1.0",
    ):
        assert line in text

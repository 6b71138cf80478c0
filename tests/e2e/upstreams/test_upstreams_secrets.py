"""Secrets of every kind in a whole stack, searched for in all that anybody but the upstreams can see."""

import asyncio
import json
import sys
from pathlib import Path

import grpc
import httpx
from narthex.v1 import tool_pb2, tool_pb2_grpc, upstream_pb2, upstream_pb2_grpc

from tests.e2e.processes import READY_S, started
from tests.e2e.upstreams.guarded import Guarded, served

SERVERS = Path(__file__).parent / "servers"
PLANTED = {
    "header": "hdr-5f1c-93aa",
    "environment": "env-77aa-02bd",
    "file": 'fil-51de"c0de',
    "query": "qry-beef-51c7",
    "client": "cli-4dad-88e1",
    "api key": "api-90ab-77ff",
    "caller": "own-31cc-6d02",
    "fresh": "tok-c4fe-1d1d",
}
OPEN = {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}}
PATHS = {"/mcp": {"get": {"operationId": "look", "responses": {"200": {"description": "whatever"}}}}}


def configuration(url: str, inner: str, folder: Path) -> dict:
    """Upstreams that are refused, and ones that are not; all repeat what they were told."""
    file = {"file": str(folder / "secret")}
    far = f"{url}/mcp?key={PLANTED['query']}"
    credentials = {"type": "client_credentials", "client_id": "narthex", "client_secret": PLANTED["client"]}
    api = {"type": "openapi", "document": str(folder / "api.json"), "url": url}
    shouting = "import os, sys; sys.stderr.write(os.environ['K'] + os.environ['F']); sys.exit(os.environ['K'])"
    return {
        "headers": {"url": far, "headers": {"X-Key": PLANTED["header"], "X-File": file}},
        "sse": {"url": far, "type": "sse", "headers": {"X-Key": PLANTED["header"]}},
        "socket": {"url": far.replace("http", "ws"), "headers": {"X-Key": PLANTED["header"]}},
        "tokens": {"url": far, "auth": credentials},
        "child": {
            "command": sys.executable,
            "args": ["-c", shouting],
            "env": {"K": PLANTED["environment"], "F": file},
        },
        "narthex": {"url": f"grpc://{inner}", "api_key": PLANTED["api key"]},
        "api": {**api, "headers": {"X-Key": PLANTED["header"], "X-File": file}},
        "own": {**api, "auth": {"type": "passthrough"}},
        "asked": {**api, "auth": {**credentials, "token_url": f"{url}/token"}},
    }


async def test_secrets_are_in_no_log_listing_metric_or_error(tmp_path):
    (tmp_path / "secret").write_text(PLANTED["file"])
    (tmp_path / "api.json").write_text(json.dumps({**OPEN, "paths": PATHS}))
    (tmp_path / "none.json").write_text('{"mcpServers": {}}')
    guarded, free = Guarded(), "127.0.0.1:0"
    guarded.given = [PLANTED["fresh"]]
    logs = [tmp_path / "server.log", tmp_path / "bridge.log"]
    quiet = ("--grpc", free, "--metrics", free, "--mcp-config", tmp_path / "none.json")
    async with served(guarded) as port, started("narthex_server.main", *quiet) as inner:
        guarded.url = f"http://127.0.0.1:{port}"
        servers = configuration(guarded.url, inner["grpc"], tmp_path)
        (tmp_path / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
        loud = ("--mcp-config", tmp_path / "mcp.json", "--log-level", "debug")
        async with (
            started("narthex_server.main", "--grpc", free, "--metrics", free, *loud, log=logs[0]) as server,
            started(
                "narthex_bridge.main", "--http", free, "--server", server["grpc"],
                "--log-level", "debug", log=logs[1],
            ) as bridge,
            grpc.aio.insecure_channel(server["grpc"]) as channel,
            httpx.AsyncClient(base_url=f"http://{bridge['http']}", timeout=READY_S) as http,
        ):  # fmt: skip
            told = [await listings(channel), repr(server), repr(bridge)]
            for name in servers:
                told.append(await error_over_grpc(channel, f"{name}__look"))
                told.append(await error_over_http(http, f"{name}__look"))
            own, token = "own__look", PLANTED["caller"]
            told.append(await error_over_http(http, own, {"x-narthex-upstream-token-own": token}))
            told.append(await error_over_grpc(channel, own, ("x-narthex-upstream-token-own", token)))
            assert "UPSTREAM_TOKEN_REQUIRED" in told[-1]
            told += [
                (await http.get("/mcp/list")).text,
                await metrics(server["metrics"]),
                (await http.get("/metrics")).text,
            ]
    assert guarded.seen.count(PLANTED["caller"]) == 2 and PLANTED["fresh"] in guarded.seen, "the upstreams see them"
    told += [log.read_text() for log in logs]
    assert "narthex_upstream_up" in told[-4] and "upstream headers is down" in told[-2], (
        "and these are what is searched"
    )
    leaks = [(name, text) for name, secret in PLANTED.items() for text in told if secret.partition('"')[0] in text]
    assert not leaks, leaks[0]


async def listings(channel: grpc.aio.Channel) -> str:
    """All tools and upstreams, as soon as each upstream is up or down."""
    upstreams = upstream_pb2_grpc.UpstreamServiceStub(channel)
    connecting = upstream_pb2.UPSTREAM_STATE_CONNECTING
    async with asyncio.timeout(READY_S):
        while True:
            listed = await upstreams.ListUpstreams(upstream_pb2.ListUpstreamsRequest())
            if all(one.state != connecting for one in listed.upstreams):
                break
            await asyncio.sleep(0.05)
    tools = await tool_pb2_grpc.ToolServiceStub(channel).ListTools(tool_pb2.ListToolsRequest())
    assert {"api__look", "own__look", "asked__look"} <= {tool.name for tool in tools.tools}
    return repr(listed) + repr(tools)


async def error_over_grpc(channel: grpc.aio.Channel, tool: str, *metadata: tuple[str, str]) -> str:
    """Everything that an error or a failed result says."""
    stub = tool_pb2_grpc.ToolServiceStub(channel)
    call = stub.CallTool(tool_pb2.CallToolRequest(name=tool, arguments=b"{}"), metadata=metadata)
    try:
        return repr([event async for event in call])
    except grpc.aio.AioRpcError as error:
        return repr(error) + repr(error.trailing_metadata()) + str(error.details())


async def error_over_http(http: httpx.AsyncClient, tool: str, headers: dict[str, str] | None = None) -> str:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}}
    response = await http.post("/mcp/stream", json=message, headers=headers)
    return repr(response.headers) + response.text


async def metrics(address: str) -> str:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://{address}/metrics")).text

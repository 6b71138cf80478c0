"""What a whole server makes of upstreams' names, descriptions and results, and how its callers search for tools."""

import json
import sys
from pathlib import Path

import pytest
from narthex.v1 import tool_pb2, upstream_pb2
from narthex.v1.tool_pb2_grpc import ToolServiceStub
from narthex.v1.upstream_pb2_grpc import UpstreamServiceStub

DECEIVING = Path(__file__).parents[1] / "upstreams" / "servers" / "deceiving.py"


@pytest.fixture(scope="module")
def server(launch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("catalog")
    deceiving = {"command": sys.executable, "args": [str(DECEIVING)]}
    servers = {
        "first": deceiving,
        "second": deceiving,
        "files": {"command": sys.executable, "args": ["-m", "narthex_mcp.workspace", str(folder)]},
    }
    config = folder / "mcp-config.json"
    config.write_text(json.dumps({"namespace": "flat", "mcpServers": servers}))
    options = ("--catalog-search", "auto", "--catalog-lazy", "loc*", "--catalog-results", "refuse")
    return launch("--mcp-config", str(config), *options)


@pytest.fixture
def stub(channel, settled):
    return ToolServiceStub(channel)


@pytest.fixture
def call(stub):
    async def result(name: str, /, **arguments):
        request = tool_pb2.CallToolRequest(name=name, arguments=json.dumps(arguments).encode())
        (*_, last) = [event async for event in stub.CallTool(request, timeout=30)]
        return last.result

    return result


async def test_lazy_callers_are_listed_the_search_and_find_the_others(stub, call):
    listed = [tool.name for tool in (await stub.ListTools(tool_pb2.ListToolsRequest())).tools]
    assert {"tools__search", "tools__call"} <= set(listed) and "read" not in listed and "list_directory" not in listed
    found = json.loads(
        (await call("tools__search", query="show a directory's files", server="files")).structured_content
    )
    assert found["tools"][0]["name"] == "list_directory"
    done = await call("tools__call", name="list_directory", arguments={"path": "/"})
    assert "mcp-config.json" in json.loads(done.content)[0]["text"]
    of_one = [tool.name for tool in (await stub.ListTools(tool_pb2.ListToolsRequest(server="files"))).tools]
    assert "list_directory" in of_one


async def test_collisions_are_reported(stub, channel, server):
    upstreams = (await UpstreamServiceStub(channel).ListUpstreams(upstream_pb2.ListUpstreamsRequest())).upstreams
    renamed = {(one.name, tool.own_name): tool for one in upstreams for tool in one.renamed_tools}
    assert renamed.keys() == {("first", "files__list"), ("second", "files__list"), ("second", "read")}
    second = renamed["second", "read"]
    assert (second.reason, second.other_name) == (upstream_pb2.RENAME_REASON_TAKEN, "read")
    assert second.exposed_name.startswith("read_")
    assert renamed["first", "files__list"].reason == upstream_pb2.RENAME_REASON_RESERVED
    assert server.metric("narthex_upstream_renamed_tools", server="second", reason="taken") == 1
    assert f"upstream second is served as {second.exposed_name}" in server.log.read_text()


async def test_what_cannot_be_seen_is_not_shown(stub, server):
    _, tool = (await stub.ListTools(tool_pb2.ListToolsRequest(server="first"))).tools
    assert tool.description == "Read a note"
    assert json.loads(tool.input_schema)["properties"]["path"]["description"] == "Which note"
    assert server.metric("narthex_upstream_hidden_characters", server="first", kind="tool") == 1


async def test_a_result_that_does_not_fit_is_refused_and_counted(call, server):
    for count in (1, 2):
        result = await call("read", path="x")
        assert result.is_error and "size: must be integer" in json.loads(result.content)[0]["text"]
        assert server.metric("narthex_tool_result_misfits_total", tool="read", server="first") == count

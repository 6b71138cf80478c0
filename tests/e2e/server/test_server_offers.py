"""Resources, prompts and completion over gRPC, of upstreams of both eras."""

import asyncio
import json
import sys

import grpc
import pytest
from narthex.v1 import tool_pb2 as wire
from narthex.v1.tool_pb2_grpc import ToolServiceStub

LIBRARY = "tests/e2e/upstreams/servers/library.py"


@pytest.fixture(scope="module")
def server(launch, tmp_path_factory, request):
    library = str(request.config.rootpath / LIBRARY)
    servers = {
        "older": {"command": sys.executable, "args": [library, "2025-11-25", "older"]},
        "new_er": {"command": sys.executable, "args": [library, "2026-07-28", "newer"]},
        "absent": {"command": "no-such-command"},
    }
    config = tmp_path_factory.mktemp("library") / "mcp-config.json"
    config.write_text(json.dumps({"mcpServers": servers}))
    return launch("--mcp-config", str(config))


@pytest.fixture
def stub(channel, settled):
    return ToolServiceStub(channel)


@pytest.fixture
def call(stub):
    """Calls a tool; gives the text of its result."""

    async def text(tool: str, **arguments) -> str:
        request = wire.CallToolRequest(name=tool, arguments=json.dumps(arguments).encode())
        events = [event async for event in stub.CallTool(request, timeout=30)]
        return json.loads(events[-1].result.content)[0]["text"]

    return text


async def pages(method, request, field: str) -> list:
    """All items, a page of one at a time."""
    found, token = [], ""
    while True:
        page = await method(request(page_size=1, page_token=token))
        found += (items := getattr(page, field))
        if not (token := page.next_page_token):
            return found
        assert len(items) == 1


async def test_resources_are_listed_page_by_page(stub):
    found = await pages(stub.ListResources, wire.ListResourcesRequest, "resources")
    assert [(one.server, one.uri) for one in found] == [
        ("new_er", "demo://newer/one"),
        ("new_er", "new-er+demo://same"),
        ("older", "demo://older/one"),
        ("older", "demo://same"),
    ]
    one = found[-1]
    assert (one.title, one.description, one.mime_type, one.size) == ("One", "older", "text/plain", 3)
    assert json.loads(one.annotations)["audience"] == ["user"] and json.loads(one.meta) == {"shelf": 1}
    assert json.loads(one.icons) == [{"src": "data:image/png;base64,AA==", "mimeType": "image/png", "sizes": ["48x48"]}]
    theirs = (await stub.ListResources(wire.ListResourcesRequest(server="older"))).resources
    assert [one.uri for one in theirs] == ["demo://older/one", "demo://same"]


async def test_templates_and_prompts_are_listed_page_by_page(stub):
    found = await pages(stub.ListResourceTemplates, wire.ListResourceTemplatesRequest, "resource_templates")
    assert [one.uri_template for one in found] == ["demo://newer/items/{id}", "demo://older/items/{id}"]
    found = await pages(stub.ListPrompts, wire.ListPromptsRequest, "prompts")
    assert [one.name for one in found] == ["new_er__greet", "older__greet"]
    who, how = found[0].arguments
    assert (who.name, who.title, who.required, how.required) == ("who", "Who", True, False)
    assert found[0].icons and json.loads(found[0].meta) == {"n": 2}
    assert not (await stub.ListPrompts(wire.ListPromptsRequest(server="absent"))).prompts


async def test_a_tool_shows_its_icons_and_metadata(stub):
    tools = (await stub.ListTools(wire.ListToolsRequest())).tools
    tool = next(tool for tool in tools if tool.name == "older__touch")
    assert json.loads(tool.icons)[0]["mimeType"] == "image/png" and json.loads(tool.meta) == {"t": 1}


@pytest.mark.parametrize(
    ("uri", "upstream", "text"),
    [
        ("demo://same", "", "older has demo://same"),
        ("demo://same", "new_er", "newer has demo://same"),
        ("new-er+demo://same", "", "newer has demo://same"),
        ("demo://newer/items/7", "", "newer has demo://newer/items/7"),
    ],
)
async def test_a_resource_is_read(stub, uri, upstream, text):
    reply = await stub.ReadResource(wire.ReadResourceRequest(uri=uri, server=upstream))
    (part,) = reply.contents
    assert (part.uri, part.mime_type, part.text, part.WhichOneof("content")) == (uri, "", text, "text")
    assert json.loads(part.meta) == {"page": 7} and json.loads(reply.meta) == {"read": True}
    assert not reply.HasField("input_required")


async def test_bytes_come_as_bytes(stub):
    reply = await stub.ReadResource(wire.ReadResourceRequest(uri="demo://newer/items/bytes"))
    assert (reply.contents[0].blob, reply.ttl_ms) == (b"\0\1\2", 500)


async def test_what_an_upstream_asks_first_is_answered_by_asking_again(stub):
    capable = wire.McpContext(client_capabilities=b'{"elicitation":{"form":{}}}')
    reply = await stub.ReadResource(wire.ReadResourceRequest(uri="demo://newer/items/asks", mcp=capable))
    asked = reply.input_required
    assert (asked.request_state, asked.requests[0].id) == (b"half way", "who") and not reply.contents
    assert asked.requests[0].mcp.method == "elicitation/create"
    capable.input_responses = b'{"who":{"action":"accept","content":{"name":"Ada"}}}'
    capable.request_state = asked.request_state
    capable.meta = b'{"traceparent":"00-1"}'
    reply = await stub.ReadResource(wire.ReadResourceRequest(uri="demo://newer/items/asks", mcp=capable))
    assert reply.contents[0].text == "Ada, half way, 00-1"
    again = wire.GetPromptRequest(name="new_er__greet", arguments={"who": "Ada", "how": "asking"})
    assert (await stub.GetPrompt(again)).input_required.request_state == b"again"
    again.mcp.request_state = b"again"
    assert (await stub.GetPrompt(again)).messages


async def test_a_prompt_is_filled_in(stub):
    for name in ("older__greet", "new_er.greet"):
        reply = await stub.GetPrompt(wire.GetPromptRequest(name=name, arguments={"who": "Ada"}))
        assert (reply.description, json.loads(reply.meta)) == ("A greeting", {"got": True})
        assert reply.messages[0].role == "user" and b"Hello Ada from" in reply.messages[0].content


async def test_arguments_are_completed(stub):
    request = wire.CompleteRequest(prompt="older__greet", argument="who", value="A", context={"how": "x"})
    reply = await stub.Complete(request)
    assert (list(reply.values), reply.total, reply.has_more) == (["older", "how"], 2, False)
    request = wire.CompleteRequest(uri_template="demo://newer/items/{id}", argument="id")
    assert list((await stub.Complete(request)).values) == ["newer"]


@pytest.mark.parametrize(
    ("method", "asked", "code", "reason"),
    [
        ("ReadResource", wire.ReadResourceRequest(uri="demo://no"), "NOT_FOUND", "RESOURCE_NOT_FOUND"),
        ("ReadResource", wire.ReadResourceRequest(uri=""), "NOT_FOUND", "RESOURCE_NOT_FOUND"),
        ("ReadResource", wire.ReadResourceRequest(uri="a:b", server="no"), "NOT_FOUND", "UPSTREAM_NOT_FOUND"),
        ("ReadResource", wire.ReadResourceRequest(uri="absent+a:b"), "UNAVAILABLE", "UPSTREAM_UNAVAILABLE"),
        ("GetPrompt", wire.GetPromptRequest(name="older__no"), "NOT_FOUND", "PROMPT_NOT_FOUND"),
        ("GetPrompt", wire.GetPromptRequest(name="absent__no"), "UNAVAILABLE", "UPSTREAM_UNAVAILABLE"),
        ("Complete", wire.CompleteRequest(uri_template="no"), "NOT_FOUND", "RESOURCE_NOT_FOUND"),
    ],
)
async def test_what_there_is_not_says_so(stub, failure, method, asked, code, reason):
    caught = await failure(getattr(stub, method)(asked))
    assert (caught.code.name, caught.reason) == (code, reason), caught.text


@pytest.mark.parametrize(
    ("method", "asked", "field"),
    [
        ("ReadResource", wire.ReadResourceRequest(uri="a:b", mcp=wire.McpContext(meta=b"[]")), "mcp.meta"),
        ("GetPrompt", wire.GetPromptRequest(name="older__greet"), "arguments.who"),
        ("Complete", wire.CompleteRequest(argument="x"), "reference"),
        ("ListPrompts", wire.ListPromptsRequest(page_token="no"), "page_token"),
        ("WatchResources", wire.WatchResourcesRequest(uris=["a:b"] * 1001), "uris"),
    ],
)
async def test_what_is_wrong_with_a_request_is_named(stub, failure, method, asked, field):
    caught = await failure(getattr(stub, method)(asked))
    assert (caught.code, caught.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field]), caught.text


async def test_an_upstreams_own_failure_is_shown(stub, failure):
    caught = await failure(stub.ReadResource(wire.ReadResourceRequest(uri="demo://older/items/fails")))
    assert (caught.code, caught.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "UPSTREAM_REFUSED")
    assert "the shelf fell over" in caught.text


async def test_updates_reach_whoever_watches(stub, call):
    first = stub.WatchResources(wire.WatchResourcesRequest(uris=["demo://same", "new-er+demo://same"]))
    second = stub.WatchResources(wire.WatchResourcesRequest(uris=["demo://same"]))
    async with asyncio.timeout(20):
        assert (await first.read()).catalog_version
        assert (await second.read()).catalog_version
        await call("older__touch", name="demo://same")
        assert (await first.read()).updated_uri == (await second.read()).updated_uri == "demo://same"
        await call("new_er__touch", name="demo://same")
        assert (await first.read()).updated_uri == "new-er+demo://same"
        first.cancel()
        second.cancel()
        while await call("older__subscriptions") or await call("new_er__subscriptions"):
            pass


async def test_versions_grow_with_their_lists(stub, call):
    async with asyncio.timeout(20):
        catalog = stub.WatchTools(wire.WatchToolsRequest())
        resources = stub.WatchResources(wire.WatchResourcesRequest())
        before = await catalog.read()
        assert (await resources.read()).catalog_version == before.catalog_version
        await call("older__add", name="demo://added")
        after = await catalog.read()
        assert after.resources_version > before.resources_version and after.catalog_version > before.catalog_version
        assert (after.tools_version, after.prompts_version) == (before.tools_version, before.prompts_version)
        assert (await resources.read()).catalog_version == after.catalog_version
        await call("new_er__add_prompt", name="another")
        last = await catalog.read()
        assert last.prompts_version > after.prompts_version and last.resources_version == after.resources_version
        resources.cancel()
        catalog.cancel()
    found = (await stub.ListPrompts(wire.ListPromptsRequest(server="new_er"))).prompts
    assert [one.name for one in found] == ["new_er__another", "new_er__greet"]


async def test_who_watches_a_server_that_dies_is_told_when_it_is_back(stub, call, failure):
    watch = stub.WatchResources(wire.WatchResourcesRequest(uris=["demo://newer/one"]))
    async with asyncio.timeout(30):
        assert (await watch.read()).catalog_version
        caught = await failure(stub.CallTool(wire.CallToolRequest(name="new_er__die")))
        assert caught.code is grpc.StatusCode.UNAVAILABLE
        while (await watch.read()).updated_uri != "demo://newer/one":
            pass
        reply = await stub.ReadResource(wire.ReadResourceRequest(uri="demo://newer/one"))
        assert reply.contents[0].text == "newer has demo://newer/one"
        watch.cancel()

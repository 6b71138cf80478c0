"""Tools that are searched for rather than listed."""

import asyncio
import itertools
import json
import time

import pytest
from narthex.scopes import ToolScope
from narthex_server.errors import InvalidToolArguments, NotFound
from narthex_server.principal import LOCAL, Principal
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.search.searching import CALL, SEARCH, Searching
from narthex_server.tools.search.tool_index import ToolIndex
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import CallContext, Tool, ToolResult

ON = Searching("on")

SERVICES = {
    "github": "a repository on GitHub", "gitlab": "a GitLab project", "jira": "a Jira board", "slack": "Slack",
    "gmail": "a Gmail mailbox", "calendar": "a Google calendar", "postgres": "a PostgreSQL database", "s3": "S3",
    "kubernetes": "a Kubernetes cluster", "stripe": "a Stripe account", "salesforce": "Salesforce", "notion": "Notion",
    "linear": "a Linear team", "sentry": "Sentry", "datadog": "Datadog", "confluence": "a Confluence space",
    "trello": "a Trello board", "zendesk": "Zendesk", "hubspot": "HubSpot", "shopify": "a Shopify shop",
    "twilio": "Twilio", "spotify": "Spotify", "weather": "weather stations", "maps": "a map", "drive": "Google Drive",
}  # fmt: skip
VERBS = {
    "create": "Create a new",
    "get": "Fetch one",
    "list": "List every",
    "update": "Change an existing",
    "delete": "Remove a",
}
THINGS = {
    "item": "record", "comment": "remark on a record", "attachment": "file attached to a record", "user": "member",
}  # fmt: skip
SPECIAL = {
    "weather__forecast": ("Weather forecast for the coming days at a place", {"latitude": "", "longitude": ""}),
    "maps__directions": ("Route between two places by car, bicycle or on foot", {"origin": "", "destination": ""}),
    "slack__postMessage": ("Send a message to a channel", {"channel": "", "text": "What to say"}),
    "gmail__sendEmail": ("Send an e-mail to one or more recipients", {"to": "", "subject": "", "body": ""}),
    "postgres__run_query": ("Run a read-only SQL statement", {"sql": "The statement", "timeout_ms": ""}),
    "github__create_pull_request": ("Open a pull request from a branch", {"head": "", "base": "", "title": ""}),
    "github__merge_pull_request": ("Merge an open pull request", {"number": ""}),
    "kubernetes__pod_logs": ("Print what a container of a pod has logged", {"namespace": "", "pod": ""}),
    "kubernetes__scale_deployment": ("Set how many replicas a deployment has", {"replicas": ""}),
    "stripe__refund_payment": ("Give a customer's money back", {"charge": "", "amount": ""}),
    "s3__presign": ("Make a temporary download link for an object", {"key": "", "expires_in": ""}),
    "calendar__find_free_time": ("Find when all attendees have no meetings", {"attendees": "", "duration": ""}),
    "spotify__play": ("Start the playback of a song, album or playlist", {"uri": ""}),
    "twilio__send_sms": ("Send a text message to a phone number", {"phone": ""}),
    "sentry__list_issues": ("Recent crashes and exceptions of a project", {"project": ""}),
}  # fmt: skip
QUERIES = {
    "what will the weather be tomorrow": "weather__forecast",
    "driving route from A to B": "maps__directions",
    "send slack message": "slack__postMessage",
    "write an email": "gmail__sendEmail",
    "email recipients subject body": "gmail__sendEmail",
    "execute sql": "postgres__run_query",
    "SELECT from database with a SQL statement": "postgres__run_query",
    "open a PR pull request": "github__create_pull_request",
    "merging pull requests": "github__merge_pull_request",
    "container logs": "kubernetes__pod_logs",
    "scale up replicas": "kubernetes__scale_deployment",
    "refund a customer": "stripe__refund_payment",
    "temporary link to download a file from S3": "s3__presign",
    "when is everybody free for a meeting": "calendar__find_free_time",
    "play music song": "spotify__play",
    "sms text to a phone": "twilio__send_sms",
    "exceptions and crashes": "sentry__list_issues",
    "create jira item": "jira__create_item",
    "delete a comment in confluence": "confluence__delete_comment",
    "list gitlab users": "gitlab__list_user",
    "upload attachment to notion": "notion__create_attachment",
    "trello update item": "trello__update_item",
    "shopify get member": "shopify__get_user",
}


def made_up(copies: int = 1) -> list[Tool]:
    """515 tools, or that times `copies`, of many services that do much the same."""
    tools = []
    for copy, (service, where) in itertools.product(range(copies), SERVICES.items()):
        suffix = str(copy) if copy else ""
        for (verb, does), (thing, what) in itertools.product(VERBS.items(), THINGS.items()):
            schema = {"properties": {f"{thing}_id": {"type": "string", "description": f"Which {what}"}}}
            name = f"{service}{suffix}__{verb}_{thing}"
            tools.append(Tool(name, "", f"{does} {what} in {where}", json.dumps(schema).encode(), server=service))
    for name, (about, parameters) in SPECIAL.items():
        schema = {"properties": {key: {"description": text} for key, text in parameters.items()}}
        tools.append(Tool(name, "", about, json.dumps(schema).encode(), server=name.partition("__")[0]))
    return tools


async def found(catalog: Catalog, context: CallContext, **arguments) -> list[str]:
    (result,) = [event async for event in catalog.call(SEARCH, json.dumps(arguments).encode(), context)]
    return [tool["name"] for tool in json.loads(result.structured_content)["tools"]]


async def started(*servers, natives=(), searching=ON, **options) -> Catalog:
    catalog = Catalog(natives, servers, searching=searching, **options)
    await catalog.start()
    return catalog


def test_of_500_tools_the_right_one_is_among_the_first_five():
    tools = made_up()
    assert len(tools) == 515
    index = ToolIndex()
    index.follow(tools)
    names = {tool.name for tool in tools}
    places = {}
    for query, wanted in QUERIES.items():
        answer = [tool.name for tool in index.search(query, 5, names)]
        places[query] = answer.index(wanted) + 1 if wanted in answer else answer
    assert [query for query, place in places.items() if not isinstance(place, int)] == [], places
    assert sum(place == 1 for place in places.values()) >= 0.8 * len(places), places


def test_a_change_of_one_tool_reads_one_tool():
    tools = made_up(10)
    index = ToolIndex()
    index.follow(tools)
    names = {tool.name for tool in tools} | {"zebra__ride"}
    began = time.perf_counter()
    index.follow([*tools[1:], Tool("zebra__ride", "", "Ride a zebra", b"{}")])
    assert time.perf_counter() - began < 0.5
    assert [tool.name for tool in index.search("zebra", 5, names)] == ["zebra__ride"]
    assert tools[0].name not in [tool.name for tool in index.search(tools[0].name, 5, names)]


async def test_results_have_what_a_model_needs_to_call(server, context):
    one = server("files")
    one.tools = (Tool("read", "Read", "Read a file", b'{"properties":{"path":{}}}'), Tool("write", "", "Write", b"{}"))
    catalog = await started(one)
    events = [event async for event in catalog.call(SEARCH, b'{"query":"read a path"}', context)]
    (result,) = events
    assert json.loads(result.structured_content) == {
        "tools": [
            {
                "name": "files__read",
                "title": "Read",
                "description": "Read a file",
                "server": "files",
                "input_schema": {"properties": {"path": {}}},
            }
        ]
    }
    assert json.loads(json.loads(result.content)[0]["text"]) == json.loads(result.structured_content)
    brief = [event async for event in catalog.call(SEARCH, b'{"query":"write","schemas":false}', context)]
    assert "input_schema" not in json.loads(brief[0].structured_content)["tools"][0]


async def test_limits_servers_and_changes_are_minded(server, echo, context):
    one, two = server("one", "read", "reader"), server("two", "read")
    catalog = await started(one, two, natives=[echo("reads")])
    assert await found(catalog, context, query="read", limit=2) == ["reads", "one__read"]
    assert await found(catalog, context, query="read", server="two") == ["two__read"]
    one.offer("zebra")
    assert await found(catalog, context, query="zebra") == ["one__zebra"]
    two.become(ServerState.UNHEALTHY)
    assert await found(catalog, context, query="read") == ["reads"]
    for wrong in ({}, {"query": ""}, {"query": "x", "limit": 0}, {"query": "x", "limit": 51}):
        with pytest.raises(InvalidToolArguments):
            await found(catalog, context, **wrong)


async def test_only_what_a_caller_may_use_is_found(server):
    catalog = await started(server("one", "read"), server("two", "read"))
    ann = CallContext(Principal("ann", "t", ToolScope((SEARCH, CALL, "two__*"))), "test")
    assert await found(catalog, ann, query="read") == ["two__read"]
    assert await found(catalog, ann, query="read", server="one") == []
    call = json.dumps({"name": "one__read"}).encode()
    with pytest.raises(NotFound, match="one__read"):
        assert [event async for event in catalog.call(CALL, call, ann)]


class Noting:
    """A step that notes what passes."""

    def __init__(self):
        self.calls = []

    async def around(self, call, run):
        self.calls.append((call.tool.name, call.arguments))
        async for event in run(call):
            yield event


async def test_a_call_of_a_found_tool_passes_every_step_as_itself(server, echo, context):
    steps = Noting()
    catalog = await started(server("one", "read"), natives=[echo("echo", b'{"required":["n"]}')], steps=[steps])
    call = json.dumps({"name": "echo", "arguments": {"n": 10**30}}).encode()
    assert [event async for event in catalog.call(CALL, call, context)] == [
        ToolResult(b"[]", b'{"n":1000000000000000000000000000000}')
    ]
    assert steps.calls == [
        (CALL, {"name": "echo", "arguments": {"n": 10**30}}),
        ("echo", {"n": 10**30}),
    ]
    for wrong in ({"name": "echo"}, {"name": CALL, "arguments": {"name": "echo"}}, {"arguments": {}}):
        with pytest.raises(InvalidToolArguments):
            assert [event async for event in catalog.call(CALL, json.dumps(wrong).encode(), context)]


async def test_closing_the_outer_call_cancels_the_inner_one(server, context):
    one = server("a", "wait")
    catalog = await started(one)
    events = catalog.call(CALL, b'{"name":"a__wait"}', context)
    await anext(events)
    await events.aclose()
    async with asyncio.timeout(5):
        await one.cancelled.wait()


async def test_the_search_comes_with_many_tools_and_goes(server):
    one = server("a", "x")
    catalog = await started(one, searching=Searching("auto", above=1))
    names = lambda: {tool.name for tool in catalog.list(LOCAL)}  # noqa: E731
    assert names() == {"a__x"}
    one.offer("x", "y")
    assert names() == {"a__x", "a__y", SEARCH, CALL}
    one.offer("x")
    assert names() == {"a__x"}
    assert not Searching("off", above=0).offered(1000) and Searching("auto", lazy=("*",)).offered(0)


async def test_lazy_callers_are_told_of_our_own_tools_and_can_call_all(server, echo):
    catalog = await started(server("a", "x"), natives=[echo("chat")], searching=Searching("auto", lazy=("agent-*",)))
    agent = Principal("agent-7", "t")
    assert {tool.name for tool in catalog.listed(agent)} == {"chat", SEARCH, CALL}
    assert {tool.name for tool in catalog.offered(agent)} == {SEARCH, CALL}
    assert [event async for event in catalog.call("a__x", b"{}", CallContext(agent, "test"))]
    assert catalog.listed(LOCAL) == catalog.list(LOCAL)
    assert [tool.name for tool in catalog.offered(LOCAL)] == ["a__x"]
    blind = Principal("agent-8", "t", ToolScope(("a__*",)))  # cannot search, so it has to be told
    assert [tool.name for tool in catalog.listed(blind)] == ["a__x"]


async def test_a_server_that_takes_the_name_of_the_search_is_not_taken_for_it(server, echo):
    """Where the search is off the name is free."""
    ours = server("a", "tools__search", "tools__call", "x", prefix="")
    catalog = await started(ours, natives=[echo("chat")], searching=Searching("off", lazy=("*",)))
    assert len(catalog.listed(LOCAL)) == 4 and len(catalog.offered(LOCAL)) == 3

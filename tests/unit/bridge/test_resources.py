"""Resources and prompts of a client with a session."""

import asyncio
import json

import pytest

RICH = ("2025-11-25",)


async def ask(bridge, session, method, params=None):
    answer = await bridge.rpc(method, params, **session)
    return answer.json()["result"]


@pytest.mark.parametrize("version", ["2025-03-26", "2025-06-18", "2025-11-25"])
async def test_each_version_lists_what_it_knows(bridge, version):
    session = await bridge.session(version)
    (resource,) = (await ask(bridge, session, "resources/list"))["resources"]
    assert (resource["uri"], resource["mimeType"], resource["size"]) == ("test://a", "text/plain", 5)
    assert ("title" in resource) == (version >= "2025-06-18") and ("icons" in resource) == (version in RICH)
    (template,) = (await ask(bridge, session, "resources/templates/list"))["resourceTemplates"]
    assert template == {"uriTemplate": "test://{x}", "name": "any", "annotations": {"priority": 1}}
    (prompt,) = (await ask(bridge, session, "prompts/list"))["prompts"]
    assert prompt["arguments"] == [{"name": "who", "description": "whom", "required": True}]


async def test_contents_are_texts_and_base64(bridge):
    session = await bridge.session()
    found = await ask(bridge, session, "resources/read", {"uri": "test://a"})
    assert found == {
        "contents": [
            {"uri": "test://a", "mimeType": "text/plain", "text": "hello"},
            {"uri": "test://a", "blob": "AAE="},
        ]
    }


async def test_a_missing_resource_has_the_code_of_its_time(bridge):
    session = await bridge.session()
    answer = await bridge.rpc("resources/read", {"uri": "test://gone"}, **session)
    assert answer.json()["error"]["code"] == -32002 and answer.json()["error"]["data"] == {"uri": "test://gone"}


async def test_a_prompt_is_filled_in(bridge):
    session = await bridge.session()
    found = await ask(bridge, session, "prompts/get", {"name": "greet", "arguments": {"who": "you"}})
    assert found["description"] == "A greeting"
    assert found["messages"] == [{"role": "user", "content": {"type": "text", "text": "Hello you"}}]


async def test_completion_names_prompts_and_templates(bridge):
    session = await bridge.session()
    reference = {"type": "ref/resource", "uri": "test://{x}"}
    found = await ask(
        bridge, session, "completion/complete", {"ref": reference, "argument": {"name": "x", "value": "b"}}
    )
    assert found == {"completion": {"values": ["test://{x}/b"], "total": 9, "hasMore": False}}


@pytest.mark.parametrize(
    ("method", "params", "named"),
    [
        ("resources/read", {}, "uri"),
        ("resources/subscribe", {"uri": 3}, "uri"),
        ("prompts/get", {"name": "greet", "arguments": {"who": 3}}, "arguments"),
        ("completion/complete", {"ref": {"type": "ref/other"}}, "ref"),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "a"}},
            "argument",
        ),
        ("tools/list", {"cursor": "MTI"}, "cursor"),
    ],
)
async def test_what_does_not_fit_is_named(bridge, method, params, named):
    session = await bridge.session()
    answer = await bridge.rpc(method, params, **session)
    error = answer.json()["error"]
    assert error["code"] == -32602 and f'"{named}"' in error["message"]


async def test_cursors_are_ours_and_hold_for_their_list(bridge, tools):
    tools.page_size = 2
    session = await bridge.session()
    first = await ask(bridge, session, "tools/list")
    second = await ask(bridge, session, "tools/list", {"cursor": first["nextCursor"]})
    assert [tool["name"] for tool in second["tools"]] == tools.names[2:4]
    for method in ("prompts/list", "resources/list"):
        answer = await bridge.rpc(method, {"cursor": first["nextCursor"]}, **session)
        assert answer.json()["error"]["code"] == -32602


async def test_a_subscriber_is_told_once_and_no_more_after_it_ends(bridge, tools):
    session = await bridge.session()
    assert await ask(bridge, session, "resources/subscribe", {"uri": "test://a"}) == {}
    assert await ask(bridge, session, "resources/subscribe", {"uri": "test://a"}) == {}
    await asyncio.wait_for(tools.resource_watched.wait(), 5)
    async with bridge.http.stream("GET", "/mcp", headers=session) as stream, asyncio.timeout(10):
        await tools.watched["test://a"].put("test://a")
        async for line in stream.aiter_lines():
            if "resources/updated" in line:
                assert json.loads(line[6:])["params"] == {"uri": "test://a"}
                break
    assert await ask(bridge, session, "resources/unsubscribe", {"uri": "test://a"}) == {}
    assert await ask(bridge, session, "resources/unsubscribe", {"uri": "test://a"}) == {}
    await asyncio.wait_for(tools.unwatched.wait(), 5)


async def test_the_end_of_a_session_ends_its_subscriptions(bridge, tools):
    session = await bridge.session()
    await ask(bridge, session, "resources/subscribe", {"uri": "test://a"})
    await asyncio.wait_for(tools.resource_watched.wait(), 5)
    await bridge.http.delete("/mcp", headers=session)
    await asyncio.wait_for(tools.unwatched.wait(), 5)


async def test_a_subscription_is_answered_when_its_upstream_watches(bridge, tools):
    tools.may_watch.clear()
    session = await bridge.session()
    asked = asyncio.create_task(ask(bridge, session, "resources/subscribe", {"uri": "test://a"}))
    await asyncio.wait_for(tools.resource_watched.wait(), 5)
    assert (await bridge.rpc("ping", id=2, **session)).json()["result"] == {} and not asked.done()
    tools.may_watch.set()
    assert await asked == {}

"""Sessions and streams of a bridge that is killed and started again on the same file."""

import asyncio
import json

import pytest
from narthex.keys import new_key

DEADLINE_S = 10.0


@pytest.fixture
def durable(bridge_process, tmp_path):
    return lambda *more: bridge_process("--events-store", "sqlite", "--events-path", str(tmp_path / "e.db"), *more)


async def test_a_session_goes_on_with_all_that_was_agreed(durable, tools):
    async with durable() as bridge:
        session = await bridge.session("2025-06-18")
        assert (await bridge.rpc("logging/setLevel", {"level": "error"}, **session)).json()["result"] == {}
        gone = await bridge.session()
        assert (await bridge.http.delete("/mcp", headers=gone)).status_code == 204
        await bridge.stop()
    async with durable() as bridge:
        async with bridge.calling(session, "logs") as stream:
            told = [event.message for event in await stream.rest()]
        assert [message["params"]["data"] for message in told if "method" in message] == ["ERROR"]
        # The rules of its version: arguments that do not fit are an error, not a result.
        assert (await bridge.rpc("tools/call", {"name": "strict"}, **session)).json()["error"]["code"] == -32602
        assert (await bridge.rpc("ping", **gone)).status_code == 404
        assert (await bridge.rpc("initialize", {"protocolVersion": "2025-06-18"}, **session)).status_code == 200


async def test_the_server_knows_a_session_by_one_name_from_its_first_call_to_its_end(durable, tools):
    async with durable() as bridge:
        session = await bridge.session()
        await bridge.rpc("tools/call", {"name": "echo"}, **session)
        await bridge.stop()
    name = tools.metadata[-1]["x-narthex-session"]
    assert name and session["mcp-session-id"] not in name, (
        "who reads the server's metadata cannot take the session over"
    )
    async with durable() as bridge:
        assert (await bridge.http.delete("/mcp", headers=session)).status_code == 204
        assert await asyncio.wait_for(tools.ended.get(), DEADLINE_S) == name


async def test_what_was_sent_before_can_be_had_again(durable):
    async with durable() as bridge:
        session = await bridge.session()
        async with bridge.calling(session, "deltas") as stream:
            before = await stream.rest()
        await bridge.stop()
    async with durable() as bridge, bridge.getting(session, before[0].id) as stream:
        assert [(event.id, event.data) for event in await stream.rest()] == [
            (event.id, event.data) for event in before[1:]
        ]


async def test_a_call_that_died_with_the_bridge_is_answered_with_an_error_once(durable, tools):
    async with durable() as bridge:
        session = await bridge.session()
        tools.feed.put_nowait("one")
        async with bridge.calling(session, "feed", id="mine") as stream:
            seen = await stream.event()
            tools.feed.put_nowait("two")
            second = await stream.event()
            await bridge.stop()
    async with durable() as bridge:
        found = []
        for _ in range(2):
            async with bridge.getting(session, seen.id) as stream:
                found.append(await stream.rest())
        assert [event.id for event in found[0]] == [event.id for event in found[1]]
        again, end = found[0]
        assert (again.id, again.text) == (second.id, "two")
        assert end.message["id"] == "mine"
        assert end.message["error"]["code"] == 503
        assert end.message["error"]["data"]["reason"] == "BRIDGE_ENDED"
        assert await bridge.metric("lost_calls_total") == 1


async def test_a_batch_is_answered_for_only_where_it_was_not_answered(durable, tools):
    batch = [
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {"name": "deltas", "_meta": {"progressToken": 1}},
        },
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "hang"}},
    ]
    async with durable() as bridge:
        session = await bridge.session("2025-03-26")
        async with bridge.http.stream("POST", "/mcp", json=batch, headers=session) as answer:
            lines = answer.aiter_lines()
            ids = []
            async for line in lines:
                ids += [line.removeprefix("id: ")] if line.startswith("id: ") else []
                if "result" in line:
                    break
            await bridge.stop()
    async with durable() as bridge, bridge.getting(session, ids[-1]) as stream:
        assert [event.message["id"] for event in await stream.rest()] == [2]


async def test_a_session_stays_its_callers(durable, tools, tmp_path, monkeypatch):
    monkeypatch.setenv("NARTHEX_DELEGATE_TOKEN", "token")
    secrets = {}
    with (tmp_path / "keys.toml").open("w") as file:
        for name in ("ann", "bob"):
            secrets[name], key = new_key(name, "t1")
            file.write(key.toml)
    keys = ("--api-key-file", str(tmp_path / "keys.toml"))
    async with durable(*keys) as bridge:
        ann = await bridge.session(authorization=f"Bearer {secrets['ann']}")
        async with bridge.calling(ann, "deltas") as stream:
            seen = await stream.event()
        await bridge.stop()
    stolen = {**ann, "authorization": f"Bearer {secrets['bob']}"}
    async with durable(*keys) as bridge:
        assert (await bridge.rpc("ping", **stolen)).status_code == 404
        answer = await bridge.http.get("/mcp", headers={**stolen, "last-event-id": seen.id})
        assert answer.status_code == 404
        assert (await bridge.rpc("ping", **ann)).status_code == 200


async def test_its_own_stream_goes_on_and_tells_that_the_tools_may_have_changed(durable, tools):
    async with durable() as bridge:
        session = await bridge.session()
        async with bridge.getting(session) as stream:
            first = await stream.block()
            await tools.change("echo")
            told = await stream.event()
            await bridge.stop()
    async with durable() as bridge, bridge.getting(session, first.id) as stream:
        again, more = await stream.event(), await stream.event()
        assert (again.id, again.data) == (told.id, told.data)
        assert json.loads(more.data)["method"] == "notifications/tools/list_changed"
        assert more.id != told.id


async def test_calls_that_a_shutdown_ended_say_so_after_it(durable, tools, bridge_process):
    async with durable("--shutdown-grace", "0.1") as bridge:
        session = await bridge.session()
        async with bridge.calling(session, "hang") as stream:
            seen = await stream.event()
        bridge.terminate()
        await asyncio.wait_for(tools.cancelled.wait(), DEADLINE_S)
        await bridge.ended()
    async with durable() as bridge, bridge.getting(session, seen.id) as stream:
        (end,) = await stream.rest()
        assert end.message["error"]["data"]["reason"] == "DRAINING"

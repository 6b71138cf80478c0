"""POST /v1/messages with a stream."""

import asyncio
import json

from google.rpc import code_pb2

ASK = {"model": "tiny", "max_tokens": 64, "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
DEADLINE_S = 5


def parsed(text):
    """Names and data of the events; each names itself."""
    found = []
    for block in text.strip().split("\n\n"):
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


async def streamed(bridge, **changes):
    answer = await bridge.http.post("/v1/messages", json=ASK | changes)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    return parsed(answer.text)


def added_up(events):
    """Type and content of each block, from its start, deltas and stop."""
    blocks = []
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(blocks)
                blocks.append([event["content_block"]["type"], "", "open"])
            case "content_block_delta":
                assert event["index"] == len(blocks) - 1 and blocks[-1][2] == "open"
                blocks[-1][1] += next(value for name, value in event["delta"].items() if name != "type")
            case "content_block_stop":
                assert event["index"] == len(blocks) - 1
                blocks[-1][2] = "whole"
    assert all(block[2] == "whole" for block in blocks)
    return [(kind, content) for kind, content, _ in blocks]


async def test_a_message_grows(bridge):
    events = await streamed(bridge)
    assert events[0]["type"] == "message_start"
    begun = events[0]["message"]
    assert (begun["id"], begun["role"], begun["model"], begun["content"]) == ("msg_r1", "assistant", "tiny", [])
    assert begun["stop_reason"] is None and begun["usage"]["input_tokens"] == 0
    assert added_up(events) == [("text", "Hello there")]
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    usage = events[-2]["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (20, 10, 7)
    assert events[-1] == {"type": "message_stop"}


async def test_thoughts_text_and_calls_are_blocks(bridge, chats, say):
    chats.events = [
        say.started(), say.thought("Hm"), say.thought("."), say.said("Let me "), say.said(""), say.said("see."),
        say.called("c1", "weather", b'{"city":"Oslo"}'), say.called("c2", "weather"), say.finished("TOOL_CALLS"),
    ]  # fmt: skip
    events = await streamed(bridge, tools=[{"name": "weather", "input_schema": {"type": "object"}}])
    assert added_up(events) == [
        ("thinking", "Hm.unsigned"), ("text", "Let me see."), ("tool_use", '{"city":"Oslo"}'), ("tool_use", "{}"),
    ]  # fmt: skip
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_rounds_of_the_server_are_told_as_they_come(bridge, chats, say):
    chats.events = [
        say.started(), say.called("c1", "time__now"), say.ran("c1", "time__now", b'[{"type":"text","text":"noon"}]'),
        say.said("It is noon."), say.finished(),
    ]  # fmt: skip
    events = await streamed(bridge, tool_execution="server")
    assert added_up(events) == [("mcp_tool_use", "{}"), ("mcp_tool_result", ""), ("text", "It is noon.")]
    blocks = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert (blocks[0]["server_name"], blocks[0]["name"]) == ("time", "now")
    assert blocks[1]["content"] == [{"type": "text", "text": "noon"}]


async def test_silence_is_a_ping(start_bridge, chats):
    chats.hangs = True
    async with start_bridge(keepalive_s=0.01) as bridge:
        async with bridge.http.stream("POST", "/v1/messages", json=ASK) as answer:
            async for line in answer.aiter_lines():
                if line == "event: ping":
                    break
        await asyncio.wait_for(chats.cancelled.wait(), DEADLINE_S)


async def test_silence_before_the_first_event_is_a_ping_too(start_bridge, chats):
    chats.hangs, chats.events = True, []
    async with start_bridge(keepalive_s=0.01, stream_after_s=0.01) as bridge:
        async with bridge.http.stream("POST", "/v1/messages", json=ASK) as answer:
            assert await anext(answer.aiter_lines()) == "event: ping"
        await asyncio.wait_for(chats.cancelled.wait(), DEADLINE_S)


async def test_a_failure_on_the_way_is_an_event(bridge, chats, say):
    chats.events = [say.started(), say.said("Hel")]
    chats.failure = (code_pb2.RESOURCE_EXHAUSTED, "OUT_OF_MEMORY", "No memory is left.")
    events = await streamed(bridge)
    assert events[-1]["error"] == {"type": "rate_limit_error", "message": "No memory is left."}
    chats.events, chats.failure = [say.started(), say.said("Hel"), say.finished("CANCELLED")], None
    events = await streamed(bridge)
    assert events[-1]["error"]["type"] == "conflict_error"


async def test_a_shutdown_ends_the_stream_with_an_event(start_bridge, chats):
    chats.hangs = True
    async with start_bridge() as bridge, bridge.http.stream("POST", "/v1/messages", json=ASK) as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == "event: message_start"
        stopping = asyncio.create_task(bridge.stop())
        rest = [line async for line in lines]
        await stopping
    last = next(line for line in reversed(rest) if line.startswith("data: "))
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "overloaded_error"
    await asyncio.wait_for(chats.cancelled.wait(), DEADLINE_S)


async def test_a_reader_that_lags_gets_more_text_per_event_and_holds_back_only_itself(bridge, chats, say):
    pieces, text = 3_000, "x" * 16_384  # more than all buffers between hold
    chats.events = [say.started(), *[say.said(text)] * pieces, say.finished()]
    async with bridge.http.stream("POST", "/v1/messages", json=ASK) as slow:
        chunks = slow.aiter_bytes()
        body = [await anext(chunks)]
        told, still = 0, 0
        while still < 10:  # until the server is held back
            counted = await bridge.http.post("/v1/messages/count_tokens", json=ASK)
            assert counted.status_code == 200
            told, still = chats.told, still + 1 if chats.told == told else 0
        assert told < pieces
        body += [chunk async for chunk in chunks]
    events = parsed(b"".join(body).decode())
    deltas = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
    assert sum(map(len, deltas)) == pieces * len(text)
    assert len(deltas) < pieces

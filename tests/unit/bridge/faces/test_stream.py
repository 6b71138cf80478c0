"""Answers that come in pieces, whatever the client does."""

import asyncio
import json

from narthex_bridge.faces.openai.chunks import ChatChunks
from narthex_bridge.faces.openai.tools import Tools

DEADLINE_S = 5
ASK = {"messages": [{"role": "user", "content": "Hello"}]}
STREAM = {**ASK, "stream": True}


async def test_a_client_that_goes_cancels_the_work_at_once(bridge, models, said):
    models.events, models.holds = [said.started(), said.text("a")], True
    async with bridge.http.stream("POST", "/v1/chat/completions", json=STREAM) as answer:
        assert (await anext(answer.aiter_lines())).startswith("data: ")
        await asyncio.wait_for(models.holding.wait(), DEADLINE_S)
    await asyncio.wait_for(models.cancelled.wait(), DEADLINE_S)


async def test_so_it_does_before_there_is_anything(bridge, models):
    models.holds = True
    for body in (ASK, STREAM):
        models.holding.clear()
        models.cancelled.clear()
        asking = asyncio.create_task(bridge.http.post("/v1/chat/completions", json=body))
        await asyncio.wait_for(models.holding.wait(), DEADLINE_S)
        asking.cancel()
        await asyncio.wait_for(models.cancelled.wait(), DEADLINE_S)


async def test_a_silent_answer_shows_that_it_lives(start_bridge, models, said):
    models.events, models.holds = [said.started()], True
    async with (
        start_bridge(keepalive_s=0.02) as bridge,
        bridge.http.stream("POST", "/v1/chat/completions", json=STREAM) as answer,
    ):
        async for line in answer.aiter_lines():
            if line == ": keepalive":
                break


async def test_an_answer_that_is_long_in_coming_begins_all_the_same(start_bridge, models):
    models.holds = True
    async with (
        start_bridge(keepalive_s=0.02, stream_after_s=0.02) as bridge,
        bridge.http.stream("POST", "/v1/chat/completions", json=STREAM) as answer,
    ):
        assert answer.status_code == 200
        assert await anext(answer.aiter_lines()) == ": keepalive"


async def test_text_that_waits_shares_a_chunk(said):
    chunks = ChatChunks(Tools(), 1, scored=True, include_usage=False)
    chunks.tell([said.started()])
    told = chunks.tell([
        said.text("a", logprobs=[said.position("a", -1)]), said.text("b", logprobs=[said.position("b", -2)]),
        said.thought("c"), said.thought("d"), said.text("e"), said.call("1", "f"), said.text("g"),
    ])  # fmt: skip
    deltas = [json.loads(line.removeprefix(b"data: "))["choices"][0] for line in told.split(b"\n\n")[:-1]]
    assert [next(iter(choice["delta"].values())) for choice in deltas if "tool_calls" not in choice["delta"]] == [
        "ab", "cd", "e", "g",
    ]  # fmt: skip
    assert [one["token"] for one in deltas[0]["logprobs"]["content"]] == ["a", "b"]


async def test_a_slow_reader_holds_back_its_own_answer_only(bridge, models, said):
    words = ["x" * 2000] * 8000
    models.events = [said.started(), *map(said.text, words), said.finished()]
    async with bridge.http.stream("POST", "/v1/chat/completions", json=STREAM) as slow:
        lines = slow.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        quick = await bridge.http.post("/v1/chat/completions", json=STREAM)
        assert quick.text.rstrip().endswith("[DONE]")
        held = models.written - len(models.events)
        assert held < len(words)  # of the slow one, not all has left the server
        text = ""
        async for line in lines:
            if line.startswith("data: {"):
                text += json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content", "")
        assert len(text) == 2000 * 8000


async def test_shutdown_ends_streams_with_an_error_when_the_grace_is_over(start_bridge, models, said):
    models.events, models.holds = [said.started(), said.text("a")], True
    async with start_bridge(shutdown_grace=0.05) as bridge:
        async with bridge.http.stream("POST", "/v1/chat/completions", json=STREAM) as answer:
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith("data: ")
            await asyncio.wait_for(models.holding.wait(), DEADLINE_S)
            stopping = asyncio.create_task(bridge.bridge.drain())
            told = [line async for line in lines if line.startswith("data: ")]
            await stopping
            refused = await bridge.http.post("/v1/chat/completions", json=ASK)
        assert json.loads(told[-1].removeprefix("data: "))["error"]["code"] == "draining"
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


async def test_more_work_than_there_may_be_is_told_to_retry(start_bridge, models):
    models.holds = True
    async with start_bridge(max_calls=1) as bridge:
        asking = asyncio.create_task(bridge.http.post("/v1/chat/completions", json=ASK))
        await asyncio.wait_for(models.holding.wait(), DEADLINE_S)
        refused = await bridge.http.post("/v1/chat/completions", json=ASK)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        asking.cancel()

"""POST /v1/chat/completions, answers in chunks."""

import asyncio

import openai
import pytest
from narthex.v1 import generation_pb2 as wire
from narthex.v1 import tool_pb2

DEADLINE_S = 5
HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {"type": "function", "function": {"name": "weather"}}


async def chunks(client, **more):
    made = await client.chat.completions.create(model="m", messages=HELLO, stream=True, **more)
    return [chunk async for chunk in made]


async def test_text_and_thoughts_come_as_deltas(client, models, said):
    models.events = [said.started(), said.thought("Hm."), said.text("Hel"), said.text("lo “x”"), said.finished()]
    told = await chunks(client, stream_options={"include_usage": True})
    assert {chunk.id for chunk in told} == {"chatcmpl-r1"} and {chunk.model for chunk in told} == {"m"}
    deltas = [chunk.choices[0].delta for chunk in told if chunk.choices]
    assert deltas[0].role == "assistant" and deltas[0].content == ""
    assert "".join(delta.content or "" for delta in deltas) == "Hello “x”"
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Hm."
    assert [chunk.choices[0].finish_reason for chunk in told if chunk.choices][-1] == "stop"
    assert [chunk.usage for chunk in told[:-1]] == [None] * (len(told) - 1)
    assert not told[-1].choices and told[-1].usage.total_tokens == 8
    assert told[-1].usage.prompt_tokens_details.cached_tokens == 2


async def test_a_stream_ends_with_done_and_has_usage_only_if_asked(data, models, said):
    models.events = [said.started(), said.text("a"), said.finished(said.LENGTH)]
    told = await data("chat/completions", messages=HELLO)
    assert told[-1] == "[DONE]" and all("usage" not in chunk for chunk in told[:-1])
    assert told[-2]["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]


async def test_calls_come_with_index_id_name_and_arguments(client, models, said):
    models.events = [
        said.started(), said.text("So: "),
        said.begun("c1", "weather"), said.call("c1", "weather", b'{"city":"Oslo"}'),
        said.begun("c2", "weather"), said.call("c2", "weather", b'{"city":"Rome"}'),
        said.begun("c3", "weather"), said.finished(said.TOOL_CALLS),
    ]  # fmt: skip
    told = await chunks(client, tools=[WEATHER])
    calls = [call for chunk in told for call in chunk.choices[0].delta.tool_calls or ()]
    assert [(call.index, call.id, call.type, call.function.name) for call in calls] == [
        (0, "c1", "function", "weather"),
        (1, "c2", "function", "weather"),
    ]
    assert [call.function.arguments for call in calls] == ['{"city":"Oslo"}', '{"city":"Rome"}']
    assert told[-1].choices[0].finish_reason == "tool_calls"
    only = await chunks(client, tools=[WEATHER], parallel_tool_calls=False)
    assert [call.id for chunk in only for call in chunk.choices[0].delta.tool_calls or ()] == ["c1"]
    assert only[-1].choices[0].finish_reason == "tool_calls"


async def test_the_officials_own_accumulator_reads_it(client, models, said):
    models.events = [
        said.started(), said.text("So: "), said.call("c1", "weather", b'{"city":"Oslo"}'),
        said.finished(said.TOOL_CALLS),
    ]  # fmt: skip
    async with client.chat.completions.stream(model="m", messages=HELLO, tools=[WEATHER]) as stream:
        async for _ in stream:
            pass
        (choice,) = (await stream.get_final_completion()).choices
    assert choice.message.content == "So: " and choice.message.tool_calls[0].function.arguments == '{"city":"Oslo"}'


async def test_calls_that_the_server_ran_are_shown_apart(client, models, said):
    models.events = [
        said.started(), said.call("c1", "clock__now"), said.call("c2", "weather"),
        said.result("c1", "clock__now", b'[{"type":"text","text":"noon"}]', is_error=True),
        said.text("Noon.", round=2), said.finished(round=2),
    ]  # fmt: skip
    told = await chunks(client, tools=[WEATHER], extra_body={"tool_execution": "server"})
    deltas = [chunk.choices[0].delta for chunk in told]
    assert [call.id for delta in deltas for call in delta.tool_calls or ()] == ["c2"]
    ((served,),) = [delta.server_tool_calls for delta in deltas if hasattr(delta, "server_tool_calls")]
    assert (served["id"], served["output"], served["is_error"]) == ("c1", "noon", True)


async def test_a_tool_that_asks_for_input_ends_the_answer_with_an_error(client, data, models, said):
    asks = wire.ToolActivity(tool_call_id="c1", input_required=tool_pb2.InputRequired())
    models.events = [said.started(), said.call("c1", "clock__now"), wire.ChatStreamResponse(tool_activity=asks)]
    models.holds = True
    told = await data("chat/completions", messages=HELLO, tool_execution="server")
    assert told[-1]["error"]["code"] == "input_required"
    await asyncio.wait_for(models.cancelled.wait(), DEADLINE_S)


async def test_several_answers_are_told_apart(client, models, said):
    models.events = [
        said.started(), said.text("a"), said.text("b", 1), said.finished(), said.text("c", 1), said.finished(index=1),
    ]  # fmt: skip
    told = await chunks(client, n=2)
    texts = ["", ""]
    for chunk in told:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == ["a", "bc"]
    assert [chunk.choices[0].index for chunk in told if chunk.choices[0].finish_reason] == [0, 1]


async def test_logprobs_and_tokens_belong_to_their_text(client, models, said):
    models.events = [
        said.started(token_ids=[1, 2]),
        said.text("Hi", token_ids=[4], logprobs=[said.position("Hi", -0.5, ("Ho", -1.0))]),
        said.finished(),
    ]
    told = await chunks(client, logprobs=True, top_logprobs=1)
    (scored,) = [chunk.choices[0] for chunk in told if chunk.choices[0].logprobs]
    assert (scored.delta.content, scored.logprobs.content[0].token, scored.token_ids) == ("Hi", "Hi", [4])
    assert scored.logprobs.content[0].top_logprobs[0].token == "Ho" and told[0].prompt_token_ids == [1, 2]


async def test_a_refusal_before_the_first_event_has_its_status(client, models, fault, codes):
    models.fault = fault(codes.NOT_FOUND, "MODEL_NOT_FOUND", "there is no model 'x'")
    with pytest.raises(openai.NotFoundError) as caught:
        await chunks(client)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


async def test_a_failure_on_the_way_is_told_in_the_stream(client, data, models, said, fault, codes):
    models.events = [said.started(), said.text("a")]
    models.fault = fault(codes.UNAVAILABLE, "DRAINING", "The server is draining.")
    told = await data("chat/completions", messages=HELLO)
    assert told[-1] == {
        "error": {"message": "The server is draining.", "type": "server_error", "param": None, "code": "draining"}
    }
    with pytest.raises(openai.APIError, match="draining"):
        await chunks(client)

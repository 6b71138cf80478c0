"""POST /v1/completions."""

import openai
import pytest
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire

LENGTH = common.Finished(
    finish_reason=common.FINISH_REASON_LENGTH, usage=common.Usage(prompt_tokens=3, completion_tokens=2)
)


def reply(text="on", **more):
    return wire.GenerateResponse(request_id="r1", model="m", text=text, finished=LENGTH, **more)


def started(**prompt):
    return wire.GenerateStreamResponse(started=wire.Started(model="m", prompt=wire.PromptInfo(**prompt)))


def text(text, **more):
    return wire.GenerateStreamResponse(text_delta=common.TextDelta(text=text, **more))


async def test_a_prompt_is_continued(client, models):
    models.reply = reply()
    made = await client.completions.create(model="m", prompt="Go", max_tokens=2, extra_body={"top_k": 3})
    assert (made.object, made.choices[0].text, made.choices[0].finish_reason) == ("text_completion", "on", "length")
    assert made.usage.total_tokens == 5 and made.choices[0].logprobs is None
    assert (models.spec.text, models.spec.stopping.max_tokens, models.spec.sampling.top_k) == ("Go", 2, 3)


async def test_prompts_are_worked_on_one_by_one(client, models):
    models.reply = reply(further_completions=[wire.Completion(text="off", finished=LENGTH)])
    made = await client.completions.create(model="m", prompt=["a", "b"], n=2)
    assert [(choice.index, choice.text) for choice in made.choices] == [(0, "on"), (1, "off"), (2, "on"), (3, "off")]
    assert made.usage.prompt_tokens == 6
    assert sorted(asked.spec.text for asked in models.asked) == ["a", "b"]
    assert len({metadata["x-request-id"] for metadata in models.metadata}) == 2
    models.asked.clear()
    await client.completions.create(model="m", prompt=[[1, 2], [3]])
    assert sorted(list(asked.spec.token_ids.ids) for asked in models.asked) == [[1, 2], [3]]


async def test_the_first_failure_ends_all(client, models, fault, codes):
    models.fault = fault(codes.INVALID_ARGUMENT, "CONTEXT_OVERFLOW", "Too long.", ("prompt",))
    with pytest.raises(openai.BadRequestError) as caught:
        await client.completions.create(model="m", prompt=["a", "b", "c"])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


async def test_an_echo_is_scored_from_its_second_token_on(client, models, said):
    models.reply = reply(
        "Go on",
        prompt=wire.PromptInfo(logprobs=[common.PositionLogprobs(), said.position("o", -2.0, ("o", -2.0))]),
        logprobs=[said.position(" on", -1.0, (" on", -1.0))],
    )
    made = await client.completions.create(model="m", prompt="Go", echo=True, logprobs=1)
    found = made.choices[0].logprobs
    assert found.tokens == ["G", "o", " on"] and found.token_logprobs == [None, -2.0, -1.0]
    assert found.text_offset == [0, 1, 2] and found.top_logprobs == [None, {"o": -2.0}, {" on": -1.0}]
    assert models.spec.response.echo and models.spec.response.prompt_logprobs == 1


async def test_a_stream_ends_with_the_cost_of_all_prompts(client, models):
    finished = wire.GenerateStreamResponse(finished=LENGTH)
    models.events = [started(), text("o"), text("n"), finished]
    made = await client.completions.create(
        model="m", prompt=["a", "b"], stream=True, stream_options={"include_usage": True}
    )
    texts, told = ["", ""], [chunk async for chunk in made]
    for chunk in told[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["on", "on"] and told[-1].usage.total_tokens == 10


async def test_a_streams_echo_is_scored_too(client, models, said):
    models.events = [
        started(logprobs=[common.PositionLogprobs(), said.position("o", -2.0)]),
        text("Go"), text(" on", logprobs=[said.position(" on", -1.0)]), wire.GenerateStreamResponse(finished=LENGTH),
    ]  # fmt: skip
    made = await client.completions.create(model="m", prompt="Go", stream=True, echo=True, logprobs=0)
    found = [chunk.choices[0].logprobs async for chunk in made if chunk.choices[0].logprobs]
    assert [one.tokens for one in found] == [["G", "o"], [" on"]]
    assert [one.text_offset for one in found] == [[0, 1], [2]]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": ["a"] * 129}, "prompt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "best_of": 3, "n": 2}, "best_of"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
    ],
)
async def test_what_is_wrong_is_named(post, models, given, param):
    answer = await post("completions", **given)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param) and not models.asked

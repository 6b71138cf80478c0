"""Sampling requests, answered by the demo model on a real engine."""

import pytest
from narthex_server.errors import InvalidRequest, NotFound
from narthex_server.pipelines.models import Models
from narthex_server.tools.model_sampler import ModelSampler

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = [{"role": "user", "content": {"type": "text", "text": "Hello!"}}]
TIME = {
    "name": "get_current_time",
    "description": "Get current time in a specific timezone",
    "inputSchema": {"type": "object", "properties": {"timezone": {"type": "string"}}, "required": ["timezone"]},
}


def asked(**more):
    return {"messages": HELLO, "maxTokens": 4, "temperature": 0, **more}


async def test_an_answer_has_its_text_its_model_and_why_it_ends(models, context):
    result = await ModelSampler(models).sample(asked(), context)
    assert result["content"]["type"] == "text" and result["content"]["text"]
    assert (result["role"], result["model"], result["stopReason"]) == ("assistant", "demo", "maxTokens")


async def test_system_prompt_and_stops_are_kept(models, context):
    sampler = ModelSampler(models)
    text = (await sampler.sample(asked(maxTokens=24), context))["content"]["text"]
    stop = text[2:6]
    ended = await sampler.sample(asked(maxTokens=24, stopSequences=[stop]), context)
    assert stop not in ended["content"]["text"] and ended["stopReason"] == "stopSequence"
    other = await sampler.sample(asked(maxTokens=24, systemPrompt="You are a pirate. " * 5), context)
    assert other["content"]["text"]


async def test_a_forced_tool_is_used_and_its_result_can_be_given_back(models, context):
    sampler = ModelSampler(models)
    more = {"tools": [TIME], "toolChoice": {"mode": "required"}, "maxTokens": 100}
    result = await sampler.sample(asked(**more), context)
    *_, use = result["content"]
    assert use["type"] == "tool_use" and use["name"] == "get_current_time" and result["stopReason"] == "toolUse"
    assert isinstance(use["input"]["timezone"], str)
    answer = {"type": "tool_result", "toolUseId": use["id"], "content": [{"type": "text", "text": "12:00"}]}
    turns = [*HELLO, {"role": "assistant", "content": [use]}, {"role": "user", "content": [answer]}]
    assert (await sampler.sample(asked(messages=turns, tools=[TIME]), context))["content"]


async def test_a_hint_names_a_part_of_a_model(models, context):
    for hints in ([{"name": "gpt"}, {"name": "DEM"}], [{}], [{"name": "nothing like it"}], []):
        preferences = {"hints": hints, "speedPriority": 1}
        assert (await ModelSampler(models).sample(asked(modelPreferences=preferences), context))["model"] == "demo"


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": [{"role": "user", "content": {"type": "image", "data": "", "mimeType": "image/png"}}]},
        {"temperature": -1},
        {"maxTokens": 0},
        {"stopSequences": [""]},
    ],
)
async def test_what_a_model_cannot_take_is_an_error(models, context, wrong):
    with pytest.raises(InvalidRequest):
        await ModelSampler(models).sample(asked(**wrong), context)


async def test_without_a_model_there_is_no_answer(context):
    with pytest.raises(NotFound):
        await ModelSampler(Models()).sample(asked(), context)

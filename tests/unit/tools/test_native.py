"""The native tools over the demo model and a real engine."""

import json

import pytest
from narthex_server.errors import InvalidToolArguments, NotFound
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.native.chat import ChatTool
from narthex_server.tools.native.count_tokens import CountTokensTool
from narthex_server.tools.native.generate import GenerateTool
from narthex_server.tools.native.list_models import ListModelsTool
from narthex_server.tools.tool import TextDelta, ToolResult

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, "temperature": 0}


@pytest.fixture
def catalog(models) -> Catalog:
    return Catalog([tool(models) for tool in (ChatTool, GenerateTool, CountTokensTool, ListModelsTool)])


@pytest.fixture
def call(catalog, context):
    async def call(name: str, arguments: dict):
        return [event async for event in catalog.call(name, json.dumps(arguments).encode(), context)]

    return call


async def test_chat_streams_its_text_and_repeats_it_whole(call):
    *pieces, result = await call("chat", HELLO)
    assert pieces and all(isinstance(piece, TextDelta) for piece in pieces)
    text = "".join(piece.text for piece in pieces)
    facts = json.loads(result.structured_content)
    assert json.loads(result.content) == [{"type": "text", "text": text}]
    assert facts["text"] == text and facts["model"] == "demo" and facts["finish_reason"] in ("length", "stop")
    assert facts["usage"]["total_tokens"] == facts["usage"]["prompt_tokens"] + facts["usage"]["completion_tokens"]
    assert 0 < facts["usage"]["completion_tokens"] <= 5


async def test_content_in_parts_is_the_same_as_text(call):
    parts = [{"role": "user", "content": [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]}]
    assert (await call("chat", {**HELLO, "messages": parts}))[-1] == (await call("chat", HELLO))[-1]


async def test_generate_continues_a_prompt_and_stops_where_asked(call):
    free = json.loads(
        (await call("generate", {"prompt": "The", "max_tokens": 8, "temperature": 0}))[-1].structured_content
    )
    assert free["usage"]["completion_tokens"] <= 8
    stop = free["text"][1:3]
    ended = await call("generate", {"prompt": "The", "max_tokens": 8, "temperature": 0, "stop": stop})
    facts = json.loads(ended[-1].structured_content)
    assert stop not in facts["text"] and facts["finish_reason"] == "stop"


async def test_a_seed_gives_the_same_text(call):
    asked = {**HELLO, "temperature": 1.0, "seed": 7}
    assert (await call("chat", asked))[-1] == (await call("chat", asked))[-1]


async def test_scores_come_with_the_result_where_asked(call):
    facts = json.loads((await call("chat", {**HELLO, "logprobs": 2, "min_tokens": 5}))[-1].structured_content)
    assert len(facts["logprobs"]) == facts["usage"]["completion_tokens"] == 5
    assert b"".join(bytes(one["bytes"]) for one in facts["logprobs"]).decode() == facts["text"]
    assert all(one["top_logprobs"][0]["logprob"] == one["logprob"] <= 0 for one in facts["logprobs"])
    assert "logprobs" not in json.loads((await call("chat", HELLO))[-1].structured_content)


async def test_a_penalty_changes_the_text(call):
    asked = {"prompt": "The time", "max_tokens": 30, "temperature": 0, "min_tokens": 30}
    plain, penalised = [
        json.loads((await call("generate", {**asked, "presence_penalty": penalty}))[-1].structured_content)["text"]
        for penalty in (0, 2)
    ]
    assert plain != penalised


async def test_tokens_are_counted_as_chat_counts_them(call):
    (counted,) = await call("count_tokens", {"messages": HELLO["messages"]})
    used = json.loads((await call("chat", HELLO))[-1].structured_content)["usage"]["prompt_tokens"]
    assert json.loads(counted.structured_content) == {"model": "demo", "tokens": used, "max_context": 256}
    (text,) = await call("count_tokens", {"text": "hello"})
    assert json.loads(text.structured_content)["tokens"] > 0


async def test_models_are_listed(call):
    (result,) = await call("list_models", {})
    (model,) = json.loads(result.structured_content)["models"]
    assert (model["id"], model["default"], model["max_context"]) == ("demo", True, 256)
    assert isinstance(result, ToolResult)


@pytest.mark.parametrize(
    ("name", "arguments", "field"),
    [
        ("chat", {}, "messages"),
        ("chat", {"messages": []}, "messages"),
        ("chat", {"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
        ("chat", {**HELLO, "temperature": -1}, "temperature"),
        ("chat", {**HELLO, "max_token": 3}, "max_token"),
        ("chat", {**HELLO, "logprobs": 21}, "logprobs"),
        ("chat", {**HELLO, "repetition_penalty": 0}, "repetition_penalty"),
        ("generate", {"prompt": 3}, "prompt"),
        ("count_tokens", {"text": "a", "messages": []}, "messages"),
    ],
)
async def test_wrong_arguments_are_named(call, name, arguments, field):
    with pytest.raises(InvalidToolArguments) as caught:
        await call(name, arguments)
    assert caught.value.violations[0].field == field


async def test_an_unknown_model_is_not_found(call):
    with pytest.raises(NotFound, match="served are: demo"):
        await call("chat", {**HELLO, "model": "other"})


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        ({"type": "regex", "regex": "[ab]{3}"}, lambda text: len(text) == 3 and {*text} <= {*"ab"}),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [7, 8]}}},
            lambda text: json.loads(text) in (7, 8),
        ),
        ({"type": "text"}, bool),
    ],
)
async def test_answers_have_the_form_that_is_asked_for(call, wanted, fits):
    for name, asked in (("chat", HELLO), ("generate", {"prompt": "The", "max_tokens": 9})):
        facts = json.loads((await call(name, {**asked, "response_format": wanted}))[-1].structured_content)
        assert fits(facts["text"]), facts

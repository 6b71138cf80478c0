"""POST /v1/chat/completions, whole answers: what is asked of the server and what comes of its answer."""

import base64
import json

import pytest
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire
from narthex_bridge.faces.body import fields
from narthex_bridge.faces.openai.chat import chat_order
from narthex_bridge.http.refusal import Refusal

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": True,
    },
}


def reply(text="Hi", reason=common.FINISH_REASON_STOP, **more):
    message = wire.ChatMessage(role=wire.ROLE_ASSISTANT, content=[wire.ContentPart(text=text)] if text else [])
    finished = common.Finished(finish_reason=reason, usage=common.Usage(prompt_tokens=7, completion_tokens=2))
    return wire.ChatResponse(request_id="r1", model="m", messages=[message], finished=finished, **more)


async def test_an_answer_is_a_completion(client, models):
    models.reply = reply()
    models.reply.finished.usage.cached_tokens = 4
    models.reply.finished.usage.reasoning_tokens = 1
    made = await client.chat.completions.create(model="m", messages=HELLO)
    assert (made.id, made.object, made.model) == ("chatcmpl-r1", "chat.completion", "m")
    (choice,) = made.choices
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "stop", "assistant")
    assert choice.message.content == "Hi" and choice.message.tool_calls is None and choice.logprobs is None
    assert made.usage.total_tokens == 9 and made.usage.prompt_tokens_details.cached_tokens == 4
    assert made.usage.completion_tokens_details.reasoning_tokens == 1
    assert models.spec.model == "m" and models.spec.messages[0].content[0].text == "Hello"


async def test_options_reach_the_server(client, models):
    models.reply = reply()
    await client.chat.completions.create(
        model="m", messages=HELLO, temperature=0.5, top_p=0.75, seed=-1, frequency_penalty=0.25, presence_penalty=-0.5,
        logit_bias={"17": -100, "3": 2.5}, max_completion_tokens=9, stop=["a", "b"], n=2, logprobs=True, top_logprobs=3,
        service_tier="flex", user="u", metadata={"a": "b"},
        extra_body={
            "top_k": 40, "min_p": 0.125, "repetition_penalty": 1.5, "stop_token_ids": [5], "min_tokens": 2,
            "ignore_eos": True, "include_stop_str_in_output": True, "skip_special_tokens": False,
            "allowed_token_ids": [1, 2], "dry_multiplier": 0.5, "dry_base": 2, "dry_allowed_length": 3,
            "dry_sequence_breakers": ["\n"], "adapters": ["a", {"name": "b", "scale": 0.5}], "return_token_ids": True,
            "chat_template_kwargs": {"x": [1]}, "thinking_token_budget": 64,
        },
    )  # fmt: skip
    spec = models.spec
    assert spec.sampling == wire.SamplingOptions(
        temperature=0.5, top_p=0.75, top_k=40, min_p=0.125, seed=2**64 - 1, frequency_penalty=0.25,
        presence_penalty=-0.5, repetition_penalty=1.5, logit_bias={17: -100, 3: 2.5}, allowed_token_ids=[1, 2],
        dry=wire.DryOptions(multiplier=0.5, base=2, allowed_length=3, sequence_breakers=["\n"]),
    )  # fmt: skip
    assert spec.stopping == wire.StoppingOptions(
        max_tokens=9, min_tokens=2, stop=["a", "b"], stop_token_ids=[5], include_stop=True, ignore_eos=True
    )
    assert spec.response == wire.ResponseOptions(
        logprobs=3, token_ids=True, prompt_token_ids=True, skip_special_tokens=False
    )
    assert list(spec.adapters) == [wire.AdapterUse(name="a"), wire.AdapterUse(name="b", scale=0.5)]
    assert spec.n == 2 and spec.reasoning == wire.ReasoningOptions(max_tokens=64)
    assert json.loads(spec.template_arguments) == {"x": [1]}
    assert models.asked[0].options == common.CallOptions(priority=common.PRIORITY_BATCH)


async def test_what_is_not_given_stays_unset(post, models):
    models.reply = reply()
    await post("chat/completions", messages=HELLO, temperature=None, stop=None, tools=None)
    expected = wire.ChatSpec(
        messages=[wire.ChatMessage(role=wire.ROLE_USER, content=[wire.ContentPart(text="Hello")])],
        sampling=wire.SamplingOptions(), stopping=wire.StoppingOptions(), response=wire.ResponseOptions(),
        tool_execution=wire.TOOL_EXECUTION_CLIENT,
    )  # fmt: skip
    for name in ("token_ids", "prompt_token_ids"):
        setattr(expected.response, name, False)
    assert models.spec == expected


@pytest.mark.parametrize(
    ("given", "options", "level"),
    [
        ({"reasoning_effort": "none"}, wire.ReasoningOptions(enabled=False), None),
        ({"reasoning_effort": "high"}, wire.ReasoningOptions(enabled=True), "high"),
        ({"enable_thinking": False}, wire.ReasoningOptions(enabled=False), None),
        ({"enable_thinking": False, "reasoning_effort": "low"}, wire.ReasoningOptions(enabled=False), "low"),
    ],
)
async def test_effort_turns_thinking_on_or_off(post, models, given, options, level):
    models.reply = reply()
    assert (await post("chat/completions", messages=HELLO, **given)).status_code == 200
    assert models.spec.reasoning == options
    assert json.loads(models.spec.template_arguments or b"{}").get("reasoning_effort") == level


async def test_a_conversation_with_tools_and_pictures_is_read(post, models):
    models.reply = reply()
    pixel = base64.b64encode(b"png").decode()
    given = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look: "},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{pixel}"}},
                {"type": "input_audio", "input_audio": {"data": pixel, "format": "mp3"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"a": 1.50}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sun"}]},
    ]
    assert (await post("chat/completions", messages=given)).status_code == 200
    system, user, assistant, tool = models.spec.messages
    assert system.role == wire.ROLE_SYSTEM
    assert user.content[1].image == wire.Media(data=b"png", mime_type="image/png")
    assert user.content[2].audio.mime_type == "audio/mpeg"
    assert not assistant.content and assistant.reasoning == "Hm."
    assert assistant.tool_calls[0] == wire.ToolCall(id="c1", name="weather", arguments=b'{"a": 1.50}')
    assert (tool.tool_call_id, tool.name, tool.content[0].text) == ("c1", "weather", "sun")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", wire.ToolChoice(mode=wire.TOOL_CHOICE_MODE_AUTO)),
        ("none", wire.ToolChoice(mode=wire.TOOL_CHOICE_MODE_NONE)),
        ("required", wire.ToolChoice(mode=wire.TOOL_CHOICE_MODE_REQUIRED)),
        ({"type": "function", "function": {"name": "weather"}}, wire.ToolChoice(name="weather")),
    ],
)
async def test_tools_and_their_choice_reach_the_server(client, models, choice, expected):
    models.reply = reply()
    await client.chat.completions.create(model="m", messages=HELLO, tools=[WEATHER], tool_choice=choice)
    (tool,) = models.spec.tools
    assert (tool.name, tool.description, tool.strict) == ("weather", "of a city", True)
    assert json.loads(tool.parameters) == WEATHER["function"]["parameters"]
    assert models.spec.tool_choice == expected and models.spec.tool_execution == wire.TOOL_EXECUTION_CLIENT


async def test_allowed_tools_are_the_only_ones_offered(post, models):
    models.reply = reply()
    other = {"type": "function", "function": {"name": "other"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "other"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    await post("chat/completions", messages=HELLO, tools=[WEATHER, other], tool_choice=choice)
    assert [tool.name for tool in models.spec.tools] == ["other"]
    assert models.spec.tool_choice.mode == wire.TOOL_CHOICE_MODE_REQUIRED


async def test_calls_are_the_callers_to_run(client, models):
    models.reply = reply("", common.FINISH_REASON_TOOL_CALLS)
    for id in ("c1", "c2"):
        models.reply.messages[0].tool_calls.add(id=id, name="weather", arguments=b'{"city": "Oslo"}')
    (choice,) = (await client.chat.completions.create(model="m", messages=HELLO, tools=[WEATHER])).choices
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    assert [call.id for call in choice.message.tool_calls] == ["c1", "c2"]
    assert choice.message.tool_calls[0].function.arguments == '{"city": "Oslo"}'
    only = await client.chat.completions.create(model="m", messages=HELLO, tools=[WEATHER], parallel_tool_calls=False)
    assert [call.id for call in only.choices[0].message.tool_calls] == ["c1"]


async def test_single_calls_and_their_number_are_the_servers_to_bound(client, models):
    models.reply = reply("Hi.")
    extra = {"tool_execution": "server", "max_tool_calls": 3, "parallel_tool_calls": False}
    await client.chat.completions.create(model="m", messages=HELLO, extra_body=extra)
    assert models.spec.agent.max_tool_calls == 3
    assert models.spec.HasField("parallel_tool_calls") and not models.spec.parallel_tool_calls


async def test_the_server_runs_its_own_tools(client, models):
    models.reply = reply("Let me see. ")
    models.reply.messages[0].tool_calls.add(id="c1", name="clock__now", arguments=b"{}")
    result = models.reply.messages.add(role=wire.ROLE_TOOL, tool_call_id="c1", name="clock__now")
    result.content.add(text="noon")
    models.reply.messages.add(role=wire.ROLE_ASSISTANT, reasoning="So.").content.add(text="Noon.")
    extra = {"tool_execution": "server", "catalog_tools": ["clock__now"], "max_tool_rounds": 3}
    made = await client.chat.completions.create(model="m", messages=HELLO, extra_body=extra)
    assert models.spec.tool_execution == wire.TOOL_EXECUTION_SERVER
    assert list(models.spec.catalog_tools) == ["clock__now"] and models.spec.max_tool_rounds == 3
    message = made.choices[0].message
    assert message.content == "Let me see. Noon." and message.tool_calls is None
    assert message.reasoning_content == "So."
    assert message.server_tool_calls == [
        {"id": "c1", "type": "function", "function": {"name": "clock__now", "arguments": "{}"}, "output": "noon"}
    ]


async def test_every_choice_has_its_own_logprobs_and_tokens(client, models, said):
    models.reply = reply(
        logprobs=[said.position("Hi", -0.5, ("Hi", -0.5), ("Ho", float("-inf")))],
        token_ids=[4],
        prompt=wire.PromptInfo(token_ids=[1, 2]),
        further_completions=[
            wire.ChatCompletion(
                message=wire.ChatMessage(role=wire.ROLE_ASSISTANT, content=[wire.ContentPart(text="é")]),
                logprobs=[said.position("é", -1.0)],
                token_ids=[9],
                finished=common.Finished(finish_reason=common.FINISH_REASON_LENGTH),
            )
        ],
    )
    made = await client.chat.completions.create(model="m", messages=HELLO, n=2, logprobs=True)
    first, second = made.choices
    (scored,) = first.logprobs.content
    assert (scored.token, scored.logprob, scored.bytes) == ("Hi", -0.5, [72, 105])
    assert [(one.token, one.logprob) for one in scored.top_logprobs] == [("Hi", -0.5), ("Ho", -9999.0)]
    assert (second.index, second.message.content, second.finish_reason) == (1, "é", "length")
    assert second.logprobs.content[0].bytes == [0xC3, 0xA9]
    assert (first.token_ids, second.token_ids, made.prompt_token_ids) == ([4], [9], [1, 2])
    assert models.spec.response.logprobs == 0


SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {}}}
AS_JSON = json.dumps(SCHEMA, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, wire.Constraint(json_schema=b'{"type":"object"}')),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, wire.Constraint(json_schema=AS_JSON)),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
                }
            },
            wire.Constraint(json_schema=AS_JSON),
        ),
        ({"grammar": {"type": "regex", "value": "a+"}}, wire.Constraint(regex="a+")),
        ({"grammar": {"type": "lark", "value": 'start: "a"'}}, wire.Constraint(lark='start: "a"')),
        ({"grammar": {"type": "json_schema", "value": AS_JSON.decode()}}, wire.Constraint(json_schema=AS_JSON)),
        ({"guided_json": SCHEMA}, wire.Constraint(json_schema=AS_JSON)),
        ({"guided_regex": "b"}, wire.Constraint(regex="b")),
        ({"guided_choice": ["x", "y"]}, wire.Constraint(choice=wire.Choice(options=["x", "y"]))),
        ({"guided_grammar": "start: A"}, wire.Constraint(lark="start: A")),
        ({"structured_outputs": {"choice": ["x"]}}, wire.Constraint(choice=wire.Choice(options=["x"]))),
        ({"structured_outputs": {"json": SCHEMA}}, wire.Constraint(json_schema=AS_JSON)),
    ],
)
async def test_rules_for_the_text_come_in_many_spellings(post, models, given, expected):
    models.reply = reply()
    assert (await post("chat/completions", messages=HELLO, **given)).status_code == 200
    assert models.spec.constraint == (expected or wire.Constraint())


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"messages": "x" * 3, "model": 5}, "model"),
        ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"n": 2**32}, "n"),
        ({"top_k": -2}, "top_k"),
        ({"seed": "1"}, "seed"),
        ({"stop": [1]}, "stop"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"logit_bias": {"a": 1}}, "logit_bias.a"),
        ({"logit_bias": {"99999999999": 1}}, "logit_bias.99999999999"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "custom"}}, "tool_choice.type"),
        ({"catalog_tools": ["x"]}, "catalog_tools"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "response_format"),
        ({"grammar": 'root ::= "a"'}, "grammar"),
        ({"guided_grammar": 'root ::= "a"'}, "guided_grammar"),
        ({"grammar": {"type": "llguidance", "value": {}}}, "grammar.type"),
        ({"adapters": [7]}, "adapters[0]"),
        ({"reasoning_effort": "some"}, "reasoning_effort"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_what_is_wrong_is_named(given, param):
    with pytest.raises(Refusal) as caught:
        chat_order(fields(json.dumps({"messages": HELLO} | given).encode()))
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.text.startswith(f"{param} ")


async def test_nesting_has_an_end(post, models):
    deep = {}
    for _ in range(300):
        deep = {"a": deep}
    answer = await post("chat/completions", messages=HELLO, response_format={"type": "json_object", "schema": deep})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format.schema")

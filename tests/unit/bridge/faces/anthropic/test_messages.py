"""POST /v1/messages without a stream: fields, blocks, refusals."""

import asyncio
import json

import pytest
from google.rpc import code_pb2
from narthex.keys import new_key
from narthex.v1 import generation_pb2 as wire

ASK = {"model": "tiny", "max_tokens": 64, "messages": [{"role": "user", "content": "Hello!"}]}
WEATHER = {"name": "weather", "description": "The weather.", "input_schema": {"type": "object"}}
USE = {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}}
DEADLINE_S = 5


async def ask(bridge, **changes):
    return await bridge.http.post("/v1/messages", json=ASK | changes)


async def refused(bridge, **changes):
    answer = await ask(bridge, **changes)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    return answer.json()["error"]["message"]


def texts(turn):
    return "".join(part.text for part in turn.content)


async def test_a_message_is_answered(bridge, chats):
    answer = await ask(bridge)
    assert answer.status_code == 200
    assert answer.headers["request-id"] == answer.headers["x-request-id"] == chats.metadata[-1]["x-request-id"]
    assert answer.json() == {
        "id": "msg_r1", "type": "message", "role": "assistant", "model": "tiny",
        "content": [{"type": "text", "text": "Hello there"}],
        "stop_reason": "end_turn", "stop_sequence": None,
        "usage": {
            "input_tokens": 20, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 10, "output_tokens": 7,
            "output_tokens_details": {"thinking_tokens": 3},
        },
    }  # fmt: skip


async def test_options_reach_the_server(bridge, chats):
    await ask(
        bridge, temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, seed=7, repetition_penalty=1.1, stop_sequences=["END"],
        thinking={"type": "enabled", "budget_tokens": 32}, metadata={"user_id": "u"}, service_tier="auto",
        output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}, "effort": "low"},
    )  # fmt: skip
    spec = chats.spec
    sampling = spec.sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed) == (0.5, 40, 7)
    assert [round(value, 5) for value in (sampling.top_p, sampling.min_p, sampling.repetition_penalty)] == [
        0.9,
        0.1,
        1.1,
    ]
    assert (spec.stopping.max_tokens, list(spec.stopping.stop)) == (64, ["END"])
    assert (spec.reasoning.enabled, spec.reasoning.max_tokens) == (True, 32)
    assert json.loads(spec.constraint.json_schema) == {"type": "object"}
    assert json.loads(spec.template_arguments) == {"reasoning_effort": "low"}


async def test_members_of_mistral_rs_mean_the_same(bridge, chats):
    await ask(
        bridge, dry_multiplier=0.8, logit_bias={"7": -1}, grammar={"type": "regex", "value": "a+"}, adapter="poet",
        enable_thinking=False,
    )  # fmt: skip
    spec = chats.spec
    assert round(spec.sampling.dry.multiplier, 5) == 0.8 and dict(spec.sampling.logit_bias) == {7: -1}
    assert (spec.constraint.regex, spec.adapters[0].name) == ("a+", "poet")
    assert spec.reasoning.HasField("enabled") and not spec.reasoning.enabled


async def test_what_is_not_given_is_left_to_the_model(bridge, chats):
    await ask(bridge, thinking={"type": "adaptive"}, temperature=None)
    spec = chats.spec
    assert not spec.sampling.HasField("temperature") and not spec.HasField("reasoning")
    assert spec.WhichOneof is not None and not spec.HasField("constraint")
    await ask(bridge, model="default", thinking={"type": "disabled"})
    assert chats.spec.model == "" and not chats.spec.reasoning.enabled and chats.spec.reasoning.HasField("enabled")


async def test_system_and_neighbouring_turns_are_one_each(bridge, chats):
    blocks = [
        {"type": "text", "text": "One.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Two."},
    ]
    messages = [
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "d"}, {"type": "text", "text": "e"}]},
        {"role": "system", "content": "f"},
        {"role": "user", "content": "g"},
    ]
    await ask(bridge, system=blocks, messages=messages)
    told = [(wire.Role.Name(turn.role)[5:], texts(turn)) for turn in chats.spec.messages]
    assert told == [("SYSTEM", "One.\nTwo."), ("USER", "a\nb\nc"), ("ASSISTANT", "de"), ("SYSTEM", "f"), ("USER", "g")]


async def test_calls_and_results_are_turns(bridge, chats):
    messages = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": "x"}, USE]},
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c1",
                    "is_error": True,
                    "content": [{"type": "text", "text": "down"}],
                },
                {"type": "text", "text": "Well?"},
            ],
        },
    ]
    await ask(bridge, messages=messages, tools=[WEATHER], tool_choice={"type": "none"})
    _, asked, result, user = chats.spec.messages
    assert (asked.reasoning, asked.tool_calls[0].id, asked.tool_calls[0].name) == ("Hm.", "c1", "weather")
    assert json.loads(asked.tool_calls[0].arguments) == {"city": "Oslo"}
    assert (result.tool_call_id, result.name, texts(result)) == ("c1", "weather", "Error: down")
    assert texts(user) == "Well?"
    assert chats.spec.tool_choice.mode == wire.TOOL_CHOICE_MODE_NONE


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, wire.ToolChoice(mode=wire.TOOL_CHOICE_MODE_AUTO)),
        ({"type": "any"}, wire.ToolChoice(mode=wire.TOOL_CHOICE_MODE_REQUIRED)),
        ({"type": "tool", "name": "weather"}, wire.ToolChoice(name="weather")),
    ],
)
async def test_tools_are_offered_and_called(bridge, chats, say, choice, expected):
    chats.events = [
        say.called("c1", "weather", b'{"city": "Oslo"}'),
        say.called("c2", "weather"),
        say.finished("TOOL_CALLS"),
    ]
    answer = await ask(bridge, tools=[WEATHER | {"strict": True}], tool_choice=choice)
    tool = chats.spec.tools[0]
    assert (tool.name, tool.description, json.loads(tool.parameters), tool.strict) == (
        "weather", "The weather.", {"type": "object"}, True,
    )  # fmt: skip
    assert chats.spec.tool_choice == expected
    assert answer.json()["stop_reason"] == "tool_use"
    assert answer.json()["content"] == [USE, USE | {"id": "c2", "input": {}}]
    answer = await ask(bridge, tools=[WEATHER], tool_choice=choice | {"disable_parallel_tool_use": True})
    assert answer.json()["content"] == [USE]


async def test_thoughts_are_blocks_of_their_own(bridge, chats, say):
    chats.events = [say.thought("Hm."), say.said("Yes."), say.finished("STOP", stop_string="END")]
    answer = (await ask(bridge)).json()
    thinking = {"type": "thinking", "thinking": "Hm.", "signature": "unsigned"}
    assert answer["content"] == [thinking, {"type": "text", "text": "Yes."}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "END")
    shown = {"type": "enabled", "budget_tokens": 8, "display": "omitted"}
    assert (await ask(bridge, thinking=shown)).json()["content"][0] == thinking | {"thinking": ""}


async def test_the_servers_calls_are_mcp_blocks_and_can_be_sent_back(bridge, chats, say):
    image = b'{"type":"image","data":"","mimeType":"image/png"}'
    chats.events = [
        say.started(), say.called("c1", "time__now", b'{"tz":"UTC"}'), say.called("c2", "chat"),
        say.called("c3", "weather"),
        say.ran("c1", "time__now", b'[{"type":"text","text":"noon"},%b]' % image),
        say.ran("c2", "chat", b"not JSON", is_error=True), say.finished("TOOL_CALLS"),
    ]  # fmt: skip
    answer = (
        await ask(
            bridge, tools=[WEATHER], tool_execution="server", catalog_tools=["time__now", "chat"], max_tool_rounds=3
        )
    ).json()
    assert chats.spec.tool_execution == wire.TOOL_EXECUTION_SERVER
    assert (list(chats.spec.catalog_tools), chats.spec.max_tool_rounds) == (["time__now", "chat"], 3)
    results = [{"type": "text", "text": "noon"}, {"type": "text", "text": image.decode()}]
    assert answer["content"] == [
        {"type": "mcp_tool_use", "id": "c1", "name": "now", "server_name": "time", "input": {"tz": "UTC"}},
        {"type": "mcp_tool_use", "id": "c2", "name": "chat", "server_name": "", "input": {}},
        {"type": "tool_use", "id": "c3", "name": "weather", "input": {}},
        {"type": "mcp_tool_result", "tool_use_id": "c1", "is_error": False, "content": results},
        {
            "type": "mcp_tool_result",
            "tool_use_id": "c2",
            "is_error": True,
            "content": [{"type": "text", "text": "not JSON"}],
        },
    ]
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c3"}]}
    await ask(bridge, messages=[*ASK["messages"], {"role": "assistant", "content": answer["content"]}, result])
    calls, *results = chats.spec.messages[1:]
    assert [call.name for call in calls.tool_calls] == ["time__now", "chat", "weather"]
    assert [(turn.tool_call_id, turn.name) for turn in results] == [
        ("c1", "time__now"),
        ("c2", "chat"),
        ("c3", "weather"),
    ]
    assert texts(results[1]) == "Error: not JSON"


async def test_a_paused_turn_goes_on_where_it_was(bridge, chats, say):
    chats.events = [say.started(), say.called("c9", "time__now"), say.finished("TOOL_ROUNDS")]
    answer = (await ask(bridge, tool_execution="server")).json()
    assert answer["stop_reason"] == "pause_turn"
    await ask(bridge, messages=[*ASK["messages"], {"role": "assistant", "content": answer["content"]}])
    assert [turn.role for turn in chats.spec.messages] == [wire.ROLE_USER]


async def test_single_calls_of_the_servers_tools_are_the_servers_to_choose(bridge, chats):
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert (await ask(bridge, tool_execution="server", tool_choice=choice)).status_code == 200
    assert chats.spec.HasField("parallel_tool_calls") and not chats.spec.parallel_tool_calls


async def test_configured_mcp_servers_can_be_named(bridge, chats):
    server = {"type": "url", "name": "time", "url": "https://time.example/mcp"}
    toolset = {"type": "mcp_toolset", "mcp_server_name": "time"}
    for changes, expected in (
        ({"mcp_servers": [server]}, ["time__convert", "time__now"]),
        ({"mcp_servers": [server | {"tool_configuration": {"allowed_tools": ["now"]}}]}, ["time__now"]),
        ({"mcp_servers": [server], "tools": [toolset | {"configs": {"now": {"enabled": False}}}]}, ["time__convert"]),
        (
            {"tools": [toolset | {"default_config": {"enabled": False}, "configs": {"now": {"enabled": True}}}]},
            ["time__now"],
        ),
        ({"tools": [toolset], "catalog_tools": ["chat"]}, ["chat", "time__convert", "time__now"]),
    ):
        assert (await ask(bridge, **changes)).status_code == 200
        assert list(chats.spec.catalog_tools) == expected
        assert chats.spec.tool_execution == wire.TOOL_EXECUTION_SERVER
    off = toolset | {"default_config": {"enabled": False}}
    assert "enable no tool" in await refused(bridge, mcp_servers=[server], tools=[off])
    assert "no MCP server" in await refused(bridge, mcp_servers=[server | {"name": "else"}])
    assert "no MCP server" in await refused(bridge, tools=[toolset | {"mcp_server_name": "else"}])
    assert "then" in await refused(bridge, tools=[toolset | {"configs": {"then": {}}}])
    assert "authorization_token" in await refused(bridge, mcp_servers=[server | {"authorization_token": "t"}])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_tokens": None}, "max_tokens is missing"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"model": None}, "model is missing"),
        ({"model": 7}, "model must be a string"),
        ({"temperature": 1.5}, "temperature must be between 0 and 1"),
        ({"top_p": "high"}, "top_p must be a number"),
        ({"seed": "x"}, "seed must be"),
        ({"enable_thinking": True, "thinking": {"type": "adaptive"}}, "thinking and mistral.rs's"),
        ({"web_search_options": {}}, "web_search_options is not supported here"),
        ({"stop_sequences": [1]}, "stop_sequences must be"),
        ({"messages": []}, "messages must hold something"),
        ({"messages": ["hello"]}, "messages[0] must be an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role must be one of user, assistant, system"),
        ({"messages": [{"content": "x"}]}, "messages[0].role is missing"),
        ({"messages": [*ASK["messages"], {"role": "assistant", "content": "So"}]}, "must end with a user's turn"),
        ({"messages": [*ASK["messages"], {"role": "assistant", "content": [USE]}]}, 'a result for the call "c1"'),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c7"}]}]},
            'names "c7", which is no call',
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "cannot take: send text"),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "cannot take: send text"),
        ({"messages": [{"role": "user", "content": [USE]}]}, 'messages[0].content[0].type "tool_use" has no meaning'),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "is a tool of Anthropic's service"),
        ({"tools": [{"name": "weather"}]}, "tools[0].input_schema is missing"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type must be one of"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name is missing"),
        ({"thinking": {"type": "enabled", "budget_tokens": 64}}, "less than max_tokens"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens is missing"),
        ({"output_config": {"format": {"type": "xml"}}}, 'must be "json_schema"'),
        ({"tool_execution": "client", "catalog_tools": ["chat"]}, 'tool_execution must be "server"'),
        ({"container": "c"}, "container is not supported here"),
        ({"thread": {"id": "t"}}, "thread is not supported here: send the whole conversation"),
    ],
)
async def test_what_cannot_be_done_is_refused(bridge, chats, changes, told):
    assert told in await refused(bridge, **changes)
    assert not chats.asked


async def test_what_nobody_knows_is_named(bridge, chats):
    for stream in (False, True):
        answer = await ask(bridge, stream=stream, temprature=1, context_management={}, files=[])
        assert (answer.status_code, answer.headers["x-narthex-ignored"]) == (200, "temprature")
    assert "x-narthex-ignored" not in (await ask(bridge)).headers


async def test_a_body_that_is_no_json_is_refused(bridge):
    for body in (b"{", b"[]", b"\xff", b'{"model": "\\ud800"}'):
        answer = await bridge.http.post("/v1/messages", content=body)
        assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        (code_pb2.INVALID_ARGUMENT, 400, "invalid_request_error"),
        (code_pb2.NOT_FOUND, 404, "not_found_error"),
        (code_pb2.PERMISSION_DENIED, 403, "permission_error"),
        (code_pb2.RESOURCE_EXHAUSTED, 429, "rate_limit_error"),
        (code_pb2.UNAVAILABLE, 529, "overloaded_error"),
        (code_pb2.DEADLINE_EXCEEDED, 504, "timeout_error"),
        (code_pb2.INTERNAL, 500, "api_error"),
    ],
)
async def test_failures_of_the_server_have_types(bridge, chats, code, status, kind):
    chats.events, chats.failure = [], (code, "WHY", "So it is.")
    for stream in (False, True):
        answer = await bridge.http.post("/v1/messages", json=ASK | {"stream": stream}, headers={"x-request-id": "mine"})
        assert answer.status_code == status
        assert answer.json() == {"type": "error", "error": {"type": kind, "message": "So it is."}, "request_id": "mine"}
        assert answer.headers["request-id"] == "mine"


async def test_an_aborted_chat_is_a_conflict(bridge, chats, say):
    chats.events = [say.said("Hel"), say.finished("CANCELLED")]
    answer = await ask(bridge)
    assert (answer.status_code, answer.json()["error"]["type"]) == (409, "conflict_error")


async def test_keys_come_in_either_header(start_bridge, chats, tmp_path):
    secret, key = new_key("ann", "acme")
    (tmp_path / "keys.toml").write_text(key.toml)
    async with start_bridge(api_key_file=tmp_path / "keys.toml", max_body_bytes=2048) as bridge:
        for headers in ({"x-api-key": secret}, {"authorization": f"Bearer {secret}"}):
            answer = await bridge.http.post("/v1/messages", json=ASK, headers=headers)
            assert answer.status_code == 200
        for headers in ({}, {"x-api-key": "nx_wrong"}, {"x-api-key": secret, "authorization": "Bearer nx_wrong"}):
            answer = await bridge.http.post("/v1/messages", json=ASK, headers=headers)
            assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
        answer = await bridge.http.post("/v1/messages", content=b"x" * 4096, headers={"x-api-key": secret})
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")
        answer = await bridge.http.get("/v1/messages", headers={"x-api-key": secret})
        assert (answer.status_code, answer.json()["error"]["type"]) == (405, "invalid_request_error")
        assert answer.headers["allow"] == "POST"


async def test_tokens_are_counted(bridge, chats):
    asked = {name: ASK[name] for name in ("model", "messages")} | {"system": "Be brief.", "tools": [WEATHER]}
    answer = await bridge.http.post("/v1/messages/count_tokens", json=asked | {"thinking": {"type": "disabled"}})
    assert answer.json() == {"input_tokens": 42}
    chat = chats.asked[-1].chat
    assert [texts(turn) for turn in chat.messages] == ["Be brief.", "Hello!"]
    assert (chat.tools[0].name, json.loads(chat.template_arguments)) == ("weather", {"enable_thinking": False})
    answer = await bridge.http.post("/v1/messages/count_tokens", json={"model": "tiny"})
    assert (answer.status_code, answer.json()["type"]) == (400, "error")


async def test_a_client_that_leaves_ends_the_chat(bridge, chats):
    chats.hangs = True
    asking = asyncio.create_task(ask(bridge))
    await asyncio.wait_for(chats.hanging.wait(), DEADLINE_S)
    asking.cancel()
    await asyncio.wait_for(chats.cancelled.wait(), DEADLINE_S)


async def test_the_face_can_be_switched_off(start_bridge):
    async with start_bridge(anthropic=False) as bridge:
        assert (await ask(bridge)).status_code == 404

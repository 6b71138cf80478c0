"""The OpenAI and Anthropic faces with bodies that nobody means well with: refused by name, quickly, without a trace."""

import asyncio
import json
import time

import pytest

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
HELLO = [{"role": "user", "content": "Hello"}]
BASE = {"model": "demo", "messages": HELLO, "max_tokens": 4}
ALLOWED_S = 8
"""Of the hardest grammar, on a machine that is busy."""


def nested(levels, schema=None):
    made = schema or {"type": "string"}
    for _ in range(levels):
        made = {"type": "object", "properties": {"a": made}, "required": ["a"]}
    return made


def strings(count):
    return {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(count)}}


def wanting(name):
    return {"properties": {name: {"type": "string"}}, "required": [name]}


def lists(levels):
    return json.loads("[" * levels + "]" * levels)


def tool(parameters, name="f"):
    return {
        "tools": [{"type": "function", "function": {"name": name, "parameters": parameters}}],
        "tool_choice": "required",
    }


def form(schema):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}}


def doubling():
    """2^30 ways through thirty references."""
    links = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)}
    return {"$defs": links | {"d30": {"type": "string"}}, "$ref": "#/$defs/d0"}


def said(*content, role="user"):
    return BASE | {"messages": [{"role": role, "content": list(content)}]}


def picture(url):
    return said({"type": "image_url", "image_url": {"url": url}})


def field(**members):
    return BASE | members


REFUSED = {
    **{f"messages {value!r:.20}": field(messages=value) for value in (1, {}, [1], [[]], [{}], [], [{"role": {}}])},
    **{f"content {value!r:.20}": field(messages=[{"role": "user", "content": value}]) for value in (1, {}, [1], [[]])},
    "a text of no text": said({"type": "text", "text": []}),
    **{f"max_tokens {value!r}": field(max_tokens=value) for value in (-1, 1.5, 1e300, True, "4", 2**40, [])},
    **{f"temperature {value!r}": field(temperature=value) for value in (-1, 1e308, "hot", True, [])},
    **{f"n {value}": field(n=value) for value in (0, 17, 1_000_000)},
    "top_p": field(top_p=2),
    "top_k": field(top_k=2**64 - 1),
    "seed": field(seed=1.5),
    "logprobs": field(logprobs=True, top_logprobs=1_000_000),
    "stop, empty": field(stop=[""]),
    "stop, long": field(stop="a" * 500_000),
    "stop, many": field(stop=["a"] * 10_000),
    "a bias of nobody": field(logit_bias={"a": 1}),
    "a bias beyond numbers": field(logit_bias={"9" * 30: 1}),
    "a bias beyond doubles": field(logit_bias={"1": 1e308}),
    "stream": field(stream="yes"),
    "stream_options": field(stream=True, stream_options={"include_usage": "x"}),
    "model in a list": field(model=["demo"]),
    "a tool's schema in text": field(**tool("x")),
    "a tool of 200 levels": field(**tool(nested(200))),
    "5000 tools": field(tools=tool({})["tools"] * 5000),
    "a schema of itself": field(**form({"$ref": "#"})),
    "a schema of 400 levels": field(**form(nested(400))),
    "a lookaround": field(**form({"type": "string", "pattern": "(?=a)b"})),
    "words of 700 kB": field(**form({"enum": ["a" * n for n in range(1200)]})),
    "all of 300": field(**form({"allOf": [wanting(f"a{n}") for n in range(300)]})),
    "5000 properties": field(**form(strings(5000))),
    "a grammar of itself": field(structured_outputs={"grammar": "start: start start | start\n"}),
    "choices of 800 kB": field(structured_outputs={"choice": ["x" * 1000] * 800}),
    "a file for a picture": picture("file:///etc/passwd"),
    "the cloud's secrets": picture("http://169.254.169.254/"),
    "a server of others": field(tools=[{"type": "mcp", "server_label": "x", "server_url": "http://127.0.0.1:1"}]),
    "template arguments of 800 levels": field(chat_template_kwargs={"a": lists(800)}),
    "20000 turns": field(messages=HELLO * 20_000),
    "800000 tokens": field(messages=[{"role": "user", "content": "a " * 400_000}]),
    "answers to no call": field(messages=[{"role": "tool", "content": "x"}]),
    "a choice of no name": field(tool_choice={"type": "function", "function": {"name": []}}),
    "effort": field(reasoning_effort=[]),
}  # fmt: skip

TAKEN = {
    "exponential references": field(**tool(doubling())),
    "60 levels": field(**tool(nested(60))),
    "a tool of itself": field(**tool({"$ref": "#"})),
    "references to files": field(**tool({"$ref": "file:///etc/passwd"})),
    "references to hosts": field(**tool({"$ref": "http://127.0.0.1:1/x"})),
    "a regex of regexes": field(**form({"type": "string", "pattern": "((a{1,1000}){1,1000}){1,1000}"})),
    "long lists": field(**form({"type": "array", "items": {"type": "string", "maxLength": 10**6}, "minItems": 10**6})),
    "every plane of Unicode": field(messages=[{"role": "user", "content": "\0\u2028\u2029\x85\uffff\U0010ffff"}]),
    "what is not read, deep": field(metadata={"a": {"b": lists(300)}}, user="x"),
    "template arguments that shadow": field(chat_template_kwargs={"messages": "x", "tools": 1, "raise_exception": 1}),
}

OTHERS = {
    "a result of 300 levels": (MESSAGES, said({"type": "tool_result", "tool_use_id": "a", "content": lists(300)})),
    "an input of 300 levels": (
        MESSAGES, said({"type": "tool_use", "id": "a", "name": "f", "input": {"a": lists(300)}}, role="assistant"),
    ),
    "a system of numbers": (MESSAGES, field(system=[1])),
    "a schema of 200 levels": (MESSAGES, field(tools=[{"name": "f", "input_schema": nested(200)}])),
    "a file": (MESSAGES, said({"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}})),
    "nothing to count": (f"{MESSAGES}/count_tokens", field(messages=[{"role": "user", "content": None}])),
    "input of 300 levels": (RESPONSES, {"model": "demo", "input": lists(300)}),
    "an output of an object": (
        RESPONSES, {"model": "demo", "input": [{"type": "function_call_output", "call_id": "a", "output": {}}]},
    ),
    "tokens beyond the vocabulary": ("/v1/completions", {"model": "demo", "prompt": [[1, 2**40]], "max_tokens": 2}),
    "5000 prompts": ("/v1/completions", {"model": "demo", "prompt": ["a"] * 5000, "max_tokens": 1}),
    "100000 answers": ("/v1/completions", {"model": "demo", "prompt": "a", "n": 100_000}),
    "embeddings of 500 levels": ("/v1/embeddings", {"model": "demo", "input": lists(500)}),
    "an array": (CHAT, []),
    "nothing": (CHAT, None),
    "a text": (MESSAGES, "x"),
}  # fmt: skip

UNREADABLE = (
    b"",
    b"\xff",
    b'{"model":"\\ud800"}',
    b'{"a":' * 2000,
    b'{"max_tokens":1e999}',
    b'{"max_tokens":%b}' % (b"1" * 4000),
    b'{"a":NaN}',
)


async def asked(wire, path, body):
    began = time.perf_counter()
    answer = await wire.post(body, path=path)
    assert time.perf_counter() - began < ALLOWED_S, body
    return answer


async def test_hostile_chats_are_refused_and_say_where(wire):
    for name, body in REFUSED.items():
        answer = await asked(wire, CHAT, body)
        assert answer.status in (400, 404), (name, answer)
        assert answer.json["error"]["message"] and len(answer.body) < 4000, name
        assert b"Traceback" not in answer.body and b"root:" not in answer.body


async def test_strange_chats_are_answered(wire):
    for name, body in TAKEN.items():
        answer = await asked(wire, CHAT, body)
        assert answer.status == 200 and answer.json["choices"], (name, answer)


async def test_other_faces_refuse_as_well(wire, bridge, server):
    for name, (path, body) in OTHERS.items():
        answer = await asked(wire, path, body)
        assert answer.status == 400 and answer.json["error"]["message"], (name, answer)
    for body in UNREADABLE:
        for path in (CHAT, MESSAGES, RESPONSES, "/v1/completions", "/v1/embeddings"):
            answer = await asked(wire, path, body)
            assert answer.status == 400 and answer.json["error"], (path, body[:20], answer)
    for log in (bridge.log, server.log):
        assert "Traceback" not in log.read_text()


async def test_a_name_with_line_breaks_writes_no_line_of_a_log(wire, bridge, server):
    for path, body in ((CHAT, field(model="a\r\nINFO forged\u2028")), (MESSAGES, field(model="a\nINFO forged"))):
        assert (await wire.post(body, path=path)).status == 404
    await wire.get("/v1/models/a%0d%0aINFO%20forged")
    await wire.get("/healthz", "x-request-id: a%0aINFO forged")
    for log in (bridge.log, server.log):
        assert not [line for line in log.read_text().splitlines() if line.startswith("INFO forged")]


@pytest.mark.parametrize("body", ["20000 turns", "800000 tokens", "5000 properties", "arguments"])
async def test_others_do_not_wait_for_a_hard_request(bridge, connect, rpc, body):
    hard, other = await connect(bridge), await connect(bridge)
    many = rpc(
        "tools/call", {"name": "count_tokens", "arguments": {"messages": [{"role": "user", "content": "a"}] * 25_000}}
    )
    working = asyncio.create_task(
        hard.post(
            *((many,) if body == "arguments" else (REFUSED[body],)), path="/mcp/stream" if body == "arguments" else CHAT
        )
    )
    took = []
    while not working.done():
        began = time.perf_counter()
        await other.post(
            rpc("tools/call", {"name": "time__get_current_time", "arguments": {"timezone": "UTC"}}), path="/mcp/stream"
        )
        took.append(time.perf_counter() - began)
    await working
    assert max(took) < 1.5, max(took)

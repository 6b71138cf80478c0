"""Constrained text and forced calls over gRPC with the demo model, which would say something else."""

import asyncio
import json
import re
import subprocess
import sys

import grpc
import jsonschema
import pytest
from narthex.v1 import common_pb2, model_pb2, model_pb2_grpc
from narthex.v1 import generation_pb2 as wire
from narthex.v1.generation_pb2_grpc import GenerationServiceStub

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        "size": {"type": "integer", "minimum": 1, "maximum": 99},
    },
    "required": ["name", "size"],
    "additionalProperties": False,
}
TOOLS = [
    wire.ToolSpec(name="get_weather", description="The weather.", parameters=json.dumps(SCHEMA).encode()),
    wire.ToolSpec(name="get_time", description="The time in a city.", parameters=b'{"additionalProperties": false}'),
]

NOTHING = {"maxProperties": 0}


@pytest.fixture(scope="module")
def server(launch, demo):
    # With int8 activations logits depend a little on how prompts are cut, and seeds would not always repeat.
    return launch("--model", demo, "--max-slots", "4", "--compute", "float32")


@pytest.fixture
def stub(channel):
    return GenerationServiceStub(channel)


def ask(text: str = "What is the weather?", **fields) -> wire.ChatRequest:
    spec = wire.ChatSpec(messages=[wire.ChatMessage(role=wire.ROLE_USER, content=[wire.ContentPart(text=text)])])
    spec.sampling.temperature = 1.5
    spec.stopping.max_tokens = 300
    spec.MergeFrom(wire.ChatSpec(**fields))
    return wire.ChatRequest(spec=spec)


async def test_hot_answers_fit_their_schema_each_on_its_own_in_one_batch(stub):
    constraint = wire.Constraint(json_schema=json.dumps(SCHEMA).encode())
    asked = [
        stub.Chat(ask(constraint=constraint, sampling=wire.SamplingOptions(temperature=1.5, seed=seed)), timeout=60)
        for seed in range(8)
    ]
    replies = await asyncio.gather(*asked)
    ended = [reply for reply in replies if reply.finished.finish_reason == common_pb2.FINISH_REASON_STOP]
    assert ended and all(reply.finished.finish_reason for reply in replies)
    for reply in ended:
        jsonschema.validate(json.loads(reply.messages[-1].content[0].text), SCHEMA)
    again = await stub.Chat(ask(constraint=constraint, sampling=wire.SamplingOptions(temperature=1.5, seed=3)))
    assert again.messages[-1] == replies[3].messages[-1], "a seed gives the same text whatever else is in the batch"


async def test_several_answers_fit_the_schema_each_with_its_own_seed_and_scores(stub):
    constraint, score = wire.Constraint(json_schema=json.dumps(SCHEMA).encode()), wire.ResponseOptions(logprobs=2)
    asked = ask(constraint=constraint, response=score, n=3, sampling=wire.SamplingOptions(temperature=1.5, seed=4))
    reply = await stub.Chat(asked, timeout=60)
    messages = [reply.messages[-1], *(further.message for further in reply.further_completions)]
    ended = [reply.finished, *(further.finished for further in reply.further_completions)]
    for message, end in zip(messages, ended, strict=True):
        if end.finish_reason == common_pb2.FINISH_REASON_STOP:
            jsonschema.validate(json.loads(message.content[0].text), SCHEMA)
    for scored, message in zip((reply, *reply.further_completions), messages, strict=True):
        assert b"".join(one.chosen.token for one in scored.logprobs).decode() == message.content[0].text
    third = ask(constraint=constraint, sampling=wire.SamplingOptions(temperature=1.5, seed=6))
    assert (await stub.Chat(third, timeout=60)).messages[-1] == messages[2]


@pytest.mark.parametrize(
    ("rule", "expression"),
    [
        (wire.Constraint(regex=r"\d{4}-\d{2}-\d{2}"), r"[0-9]{4}-[0-9]{2}-[0-9]{2}"),
        (wire.Constraint(choice=wire.Choice(options=["yes", "no", "perhaps"])), "yes|no|perhaps"),
        (wire.Constraint(lark='start: "(" start ")" | DIGITS\nDIGITS: /[0-9]{1,3}/'), r"\(*[0-9]{1,3}\)*"),
    ],
)
async def test_other_rules_hold_for_prompts_as_well(stub, rule, expression):
    for seed in range(4):
        spec = wire.GenerationSpec(text="The answer: ", constraint=rule)
        spec.sampling.temperature, spec.sampling.seed, spec.stopping.max_tokens = 2, seed, 60
        reply = await stub.Generate(wire.GenerateRequest(spec=spec))
        if reply.finished.finish_reason == common_pb2.FINISH_REASON_STOP:
            assert re.fullmatch(expression, reply.text)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (wire.Constraint(json_schema=b'{"type": "objekt"}'), "constraint.json_schema"),
        (wire.Constraint(json_schema=b"{"), "constraint.json_schema"),
        (wire.Constraint(regex="("), "constraint.regex"),
        (wire.Constraint(lark='start: "a" b'), "constraint.lark"),
        (wire.Constraint(lark='start: start "a"'), "constraint.lark"),
        (wire.Constraint(choice=wire.Choice()), "constraint.choice.options"),
    ],
)
async def test_a_rule_that_cannot_be_compiled_is_refused_where_it_is_wrong(stub, failure, rule, field):
    caught = await failure(stub.Chat(ask(constraint=rule)))
    assert (caught.code, caught.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_a_required_call_comes_and_is_said_to_begin(stub):
    choice = wire.ToolChoice(mode=wire.TOOL_CHOICE_MODE_REQUIRED)
    for seed in range(4):
        sampling = wire.SamplingOptions(temperature=1.2, seed=seed)
        request = ask("Hello!", tools=TOOLS, tool_choice=choice, sampling=sampling)
        stream = stub.ChatStream(wire.ChatStreamRequest(spec=request.spec), timeout=60)
        events = [event async for event in stream]
        calls = [event.tool_call for event in events if event.HasField("tool_call")]
        begun = [event.tool_call_started.id for event in events if event.HasField("tool_call_started")]
        assert begun[: len(calls)] == [call.id for call in calls]
        if events[-1].finished.finish_reason == common_pb2.FINISH_REASON_TOOL_CALLS:
            assert calls and not any(event.HasField("text_delta") for event in events)
        for call in calls:
            assert call.name in {"get_weather", "get_time"}
            jsonschema.validate(json.loads(call.arguments), SCHEMA if call.name == "get_weather" else NOTHING)


async def test_a_named_tool_is_the_one_that_is_called(stub):
    reply = await stub.Chat(ask("Hello!", tools=TOOLS, tool_choice=wire.ToolChoice(name="get_time")))
    assert {call.name for call in reply.messages[-1].tool_calls} == {"get_time"}


async def test_strict_tools_that_cannot_be_enforced_are_refused(stub, failure):
    tool = wire.ToolSpec(name="odd", parameters=b'{"type": "object", "not": {}}', strict=True)
    caught = await failure(stub.Chat(ask(tools=[TOOLS[0], tool])))
    assert (caught.code, caught.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["tools[1].parameters"])
    tool.strict = False
    await stub.Chat(ask(tools=[TOOLS[0], tool], stopping=wire.StoppingOptions(max_tokens=5)))


async def test_the_model_says_that_it_can_be_constrained(channel):
    reply = await model_pb2_grpc.ModelServiceStub(channel).GetModel(model_pb2.GetModelRequest(name="demo"))
    assert model_pb2.CAPABILITY_CONSTRAINT in reply.model.capabilities
    assert model_pb2.CAPABILITY_REASONING not in reply.model.capabilities


def test_the_command_line_holds_answers_to_a_schema(server, tmp_path):
    def narthex(schema: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "schema.json"
        file.write_text(schema)
        command = [sys.executable, "-m", "narthex.cli.main", "chat", "hello", "--no-tools", "--json-schema", str(file)]
        return subprocess.run([*command, "--server", server.grpc], capture_output=True, text=True, timeout=60)

    assert narthex('{"enum": [17]}').stdout == "17\n"
    refused = narthex('{"type": "objekt"}')
    assert refused.returncode == 1 and "Invalid type: objekt" in refused.stderr

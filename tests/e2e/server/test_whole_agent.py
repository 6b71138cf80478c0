"""The main job over gRPC: the model calls a real tool of a real MCP server, and the answer comes back to it."""

import json

import pytest
from narthex.v1 import generation_pb2 as wire
from narthex.v1.generation_pb2_grpc import GenerationServiceStub

TOOL = "time__get_current_time"


@pytest.fixture(scope="module")
def server(launch, demo, upstreams):
    return launch("--model", demo, "--mcp-config", str(upstreams))


@pytest.fixture
def stub(channel, settled):
    return GenerationServiceStub(channel)


def question(text: str) -> wire.ChatSpec:
    spec = wire.ChatSpec(
        messages=[wire.ChatMessage(role=wire.ROLE_USER, content=[wire.ContentPart(text=text)])],
        tool_execution=wire.TOOL_EXECUTION_SERVER,
        catalog_tools=[TOOL],
    )
    spec.sampling.temperature = 0
    spec.stopping.max_tokens = 96
    return spec


async def test_the_model_calls_a_tool_and_goes_on_with_its_result(stub):
    request = wire.ChatStreamRequest(spec=question("What time is it in Tokyo?"))
    events = [event async for event in stub.ChatStream(request)]
    kinds = [event.WhichOneof("event") for event in events]
    said = "".join(event.text_delta.text for event in events)
    calls = [event.tool_call for event in events if event.HasField("tool_call")]
    assert calls, f"the model called nothing but said {said!r}"
    call, result = calls[0], next(event.tool_result for event in events if event.HasField("tool_result"))
    assert call.name == result.name == TOOL and result.tool_call_id == call.id
    assert json.loads(call.arguments).keys() == {"timezone"}
    assert kinds.index("tool_call") < kinds.index("tool_result") < len(kinds) - 1
    assert kinds[-1] == "finished" and kinds.count("started") == 1
    later = [event for event in events if event.round == 2]
    assert any(event.HasField("text_delta") for event in later), "the model speaks again after the result"


async def test_the_unary_chat_holds_every_turn(stub):
    reply = await stub.Chat(wire.ChatRequest(spec=question("What time is it in Tokyo?")))
    roles = [message.role for message in reply.messages]
    assert roles[:2] == [wire.ROLE_ASSISTANT, wire.ROLE_TOOL] and roles[-1] == wire.ROLE_ASSISTANT
    assert reply.messages[1].tool_call_id == reply.messages[0].tool_calls[0].id
    assert reply.finished.usage.prompt_tokens > reply.finished.usage.completion_tokens > 0, "of all rounds"

"""The client against a real server."""

import asyncio
import subprocess
import sys
from contextlib import aclosing

import grpc
import pytest
from narthex import Client, NarthexError, Violation
from narthex.messages import text_of, user
from narthex.v1.embedding_pb2 import EmbedInput, EmbedSpec
from narthex.v1.generation_pb2 import ChatSpec, GenerationSpec, SamplingOptions


async def test_a_chat_streams_its_events_in_order(client):
    events = [event async for event in client.chat_stream(ChatSpec(messages=[user("one two")]))]
    assert [event.WhichOneof("event") for event in events] == ["started", "text_delta", "text_delta", "finished"]
    assert [event.text_delta.text for event in events[1:3]] == ["one", "two"]


async def test_leaving_a_stream_early_cancels_the_work_on_the_server(client, server):
    async with aclosing(client.chat_stream(ChatSpec(messages=[user("forever")]))) as events:
        async for event in events:
            if event.HasField("text_delta"):
                break
    await asyncio.wait_for(server.generation.left.wait(), 10)


async def test_the_time_limit_ends_a_stream(server):
    async with Client(server.target, timeout=0.2) as client:
        with pytest.raises(NarthexError) as caught:
            async for _ in client.chat_stream(ChatSpec(messages=[user("forever")])):
                pass
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert caught.value.reason == "DEADLINE_EXCEEDED"


async def test_generate_sends_the_key_and_returns_the_completion(client, server):
    answer = await client.generate(GenerationSpec(model="echo", text="hi"))
    assert (answer.model, answer.text) == ("echo", "HI")
    assert server.generation.metadata["authorization"] == "Bearer secret"


async def test_an_error_carries_reason_metadata_and_violations(client):
    with pytest.raises(NarthexError) as caught:
        await client.generate(GenerationSpec(text="hi", sampling=SamplingOptions(temperature=-1)))
    error = caught.value
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_SAMPLING")
    assert error.message == "one field is at fault"
    assert dict(error.metadata) == {"least": "0"}
    assert error.violations == (Violation("sampling.temperature", "is -1, must be at least 0"),)


async def test_an_rpc_that_the_server_lacks_is_unimplemented(client):
    with pytest.raises(NarthexError) as caught:
        await client.chat(ChatSpec(messages=[user("hi")]))
    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED


async def test_no_server_is_unavailable():
    async with Client("127.0.0.1:1", timeout=10) as client:
        with pytest.raises(NarthexError) as caught:
            await client.list_models()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


async def test_texts_are_embedded_in_their_order(client):
    made = await client.embed(EmbedSpec(model="m", inputs=[EmbedInput(text="one"), EmbedInput(text="three")]))
    assert made.model == "m" and [list(one.values) for one in made.embeddings] == [[3], [5]]


async def test_models_are_listed(client):
    assert [model.name for model in await client.list_models()] == ["echo"]


async def test_tools_of_all_pages_are_listed(client):
    assert [tool.name for tool in await client.list_tools()] == ["chat", "generate", "time__now"]


@pytest.mark.parametrize("arguments", [{"zone": "Europe/Rome"}, b'{"zone": "Europe/Rome"}'])
async def test_a_tool_call_gives_its_result(client, arguments):
    result = await client.call_tool("time__now", arguments)
    assert result.structured_content == b'{"zone": "Europe/Rome"}'


async def test_a_tool_call_streams_progress_before_its_result(client):
    events = [event.WhichOneof("event") async for event in client.call_tool_stream("time__now")]
    assert events == ["progress", "result"]


async def test_an_unknown_tool_is_not_found(client):
    with pytest.raises(NarthexError, match="NOT_FOUND: no tool nothing"):
        await client.call_tool("nothing")


async def test_a_call_without_a_result_is_an_error(client):
    with pytest.raises(NarthexError, match="NO_RESULT"):
        await client.call_tool("silent")


def test_text_of_a_message_is_its_text():
    assert text_of(user("hello")) == "hello"


def test_importing_the_package_does_not_import_grpc():
    program = "import sys, narthex, narthex.settings; sys.exit('grpc' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


async def test_a_batch_gives_what_came_of_each_call_in_its_order(client):
    calls = [("chat", {"n": 1}), ("nothing", {}), ("time__now", b'{"n":2}'), ("silent", b"")]
    first, second, third, fourth = await client.call_tools(calls)
    assert first.structured_content == b'{"n": 1}' and third.structured_content == b'{"n":2}'
    assert (second.code, second.reason, second.message) == (
        grpc.StatusCode.NOT_FOUND, "TOOL_NOT_FOUND", "no tool nothing",
    )  # fmt: skip
    assert isinstance(fourth, NarthexError) and fourth.reason == "NO_RESULT"

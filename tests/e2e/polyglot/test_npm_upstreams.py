import json

import pytest
from narthex import Client, NarthexError

pytestmark = pytest.mark.system


async def test_a_file_is_read_through_the_npm_file_server(stack):
    async with Client(stack.grpc) as client:
        result = await client.call_tool("filesystem__read_text_file", {"path": str(stack.files / "hello.txt")})
    assert not result.is_error
    assert json.loads(result.content)[0]["text"].strip() == "Hello from a file."


@pytest.mark.parametrize("alias", ["everything::echo", "everything.echo"])
async def test_the_aliases_reach_the_same_tool(stack, alias):
    async with Client(stack.grpc) as client:
        result = await client.call_tool(alias, {"message": "hi"})
    assert "hi" in json.loads(result.content)[0]["text"]


async def test_progress_comes_before_the_result(stack):
    async with Client(stack.grpc) as client:
        operation = client.call_tool_stream("everything__trigger-long-running-operation", {"duration": 1, "steps": 4})
        events = [event.WhichOneof("event") async for event in operation]
    assert events[-1] == "result"
    assert events.count("progress") >= 2


async def test_arguments_that_do_not_fit_name_the_field(stack):
    async with Client(stack.grpc) as client:
        with pytest.raises(NarthexError) as caught:
            await client.call_tool("everything__get-sum", {"a": "x", "b": 2})
    assert caught.value.reason == "INVALID_TOOL_ARGUMENTS"
    assert any("a" in violation.field for violation in caught.value.violations)

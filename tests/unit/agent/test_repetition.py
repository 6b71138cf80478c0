"""A model that does the same again and again."""

from narthex_server.agent.options import AgentOptions
from narthex_server.agent.repetition import Repetition
from narthex_server.pipelines.events import FinishReason
from narthex_server.text.messages import ToolCall

from tests.unit.agent.scripted import said


async def test_the_model_is_told_and_then_the_run_ends(serve, agent):
    tool = agent.tool("t", "no luck")
    async with serve(agent.call("t")) as model:
        ran = await agent.run(model, [tool], AgentOptions(("t",), repeats=2))
    assert ran.end.reason is FinishReason.REPETITION and len(tool.seen) == 4
    assert [("very call" in one.text) for one in ran.results] == [False, True, True, True]
    assert "3 times" in ran.results[2].text


async def test_progress_is_no_repetition(serve, agent):
    async def count(arguments, context):
        yield said(str(len(tool.seen)))

    tool = agent.tool("t", count)
    async with serve(agent.call("t")) as model:
        ran = await agent.run(model, [tool], AgentOptions(("t",), repeats=2, max_tool_rounds=6))
    assert ran.end.reason is FinishReason.TOOL_ROUNDS and not any("very call" in one.text for one in ran.results)


def test_the_order_of_arguments_does_not_matter_and_zero_is_never():
    repetition, never = Repetition(2), Repetition(0)
    calls = [ToolCall("1", "t", '{"a": 1, "b": 2}'), ToolCall("2", "t", '{"b":2,"a":1}'), ToolCall("3", "t", "{bad")]
    assert [bool(repetition.note(call, said("x"))) for call in calls] == [False, True, False]
    assert not any(never.note(calls[0], said("x")) for _ in range(9)) and not never.endless

"""How many calls run at once, and what is told of those that are not made."""

import asyncio

import pytest
from narthex_server.agent.calls import MAX_NEWS
from narthex_server.agent.events import ToolActivity
from narthex_server.agent.options import AgentOptions
from narthex_server.errors import InvalidRequest
from narthex_server.tools.tool import Progress

from tests.unit.agent.scripted import said


@pytest.mark.parametrize("bound", [1, 2, 5])
async def test_no_more_calls_run_at_once_than_allowed(serve, agent, bound):
    now = most = 0

    async def work(arguments, context):
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(10):
            await asyncio.sleep(0)
        now -= 1
        yield said("done")

    async with serve(agent.call("t") * 4, "Done.") as model, asyncio.timeout(10):
        ran = await agent.run(model, [agent.tool("t", work)], AgentOptions(("t",), parallel=bound, repeats=0))
    assert most == min(bound, 4) and len(ran.results) == 4


@pytest.mark.parametrize("bound", [0, 65])
async def test_bounds_out_of_range_are_refused(serve, agent, bound):
    async with serve("Hi.") as model:
        with pytest.raises(InvalidRequest, match=r"agent\.max_parallel_tool_calls"):
            await agent.run(model, [agent.tool("t")], AgentOptions(("t",), parallel=bound))


async def test_a_call_that_was_not_offered_is_reported_all_the_same(serve, agent):
    tools = [agent.tool("t"), agent.tool("hidden")]
    calls = agent.call("t") + agent.call("hidden") + agent.call("nothing")
    async with serve(calls, "Done.") as model:
        ran = await agent.run(model, tools, AgentOptions(("t",)))
    assert not tools[1].seen and [one.result.is_error for one in ran.results].count(True) == 2
    assert {(one.asked, one.name, one.outcome, one.reason) for one in agent.reports} == {
        ("t", "t", "ok", ""),
        ("hidden", "hidden", "not_found", "TOOL_NOT_FOUND"),
        ("nothing", "", "not_found", "TOOL_NOT_FOUND"),
    }


async def test_a_tool_that_floods_a_slow_reader_loses_news_and_not_its_result(serve, agent):
    async def flood(arguments, context):
        for number in range(3 * MAX_NEWS):  # none of which anybody can read before the next
            yield Progress(number)
        yield said("done")

    async with serve(agent.call("t"), "Done.") as model, asyncio.timeout(20):
        ran = await agent.run(model, [agent.tool("t", flood)], AgentOptions(("t",)))
    news = [one for one in ran.events if isinstance(one.event, ToolActivity)]
    assert len(news) == MAX_NEWS and [one.text for one in ran.results] == ["done"]

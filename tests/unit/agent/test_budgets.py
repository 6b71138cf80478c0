"""Each budget ends a run with what there is until then, and with everything that it cost."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from narthex_server.agent.cutting import Reader
from narthex_server.agent.loop import AgentLoop
from narthex_server.agent.options import AgentOptions, Limits
from narthex_server.agent.spending import Spending, bounded
from narthex_server.errors import InvalidRequest
from narthex_server.pipelines.chat import ChatPipeline
from narthex_server.pipelines.events import Budget, FinishReason, Usage
from narthex_server.pipelines.request import ChatRequest, StoppingOptions
from narthex_server.text.messages import Message, ToolSpec
from narthex_server.tools.catalog import Catalog

from tests.unit.agent.scripted import ANN, Ran


def options(*tools: str, **limits: float) -> AgentOptions:
    return AgentOptions(tools, limits=Limits(**limits), repeats=0)


async def test_calls_beyond_their_number_are_not_made(serve, agent):
    tool = agent.tool("t")
    async with serve(agent.call("t") * 2, agent.call("t", '{"a": 2}') * 2) as model:
        ran = await agent.run(model, [tool], options("t", tool_calls=3))
    assert (ran.end.reason, ran.end.budget) == (FinishReason.BUDGET, Budget.TOOL_CALLS)
    assert len(tool.seen) == len(ran.results) == 3


async def test_after_the_last_call_the_model_may_still_answer(serve, agent):
    async with serve(agent.call("t"), "Done.") as model:
        ran = await agent.run(model, [agent.tool("t")], options("t", tool_calls=1))
    assert ran.end.reason is FinishReason.STOP and ran.text(2) == "Done."


async def test_generated_tokens_count_over_all_rounds(serve, agent):
    async with serve(agent.call("t"), "one two three four five six seven eight nine ten") as model:
        whole = await agent.run(model, [agent.tool("t")])
        limit = whole.end.usage.completion_tokens - 4
        request = ChatRequest("again", (Message("user", "Do."),))
        ran = await agent.run(model, [agent.tool("t")], options("t", generated_tokens=limit), request=request)
    assert (ran.end.reason, ran.end.budget) == (FinishReason.BUDGET, Budget.GENERATED_TOKENS)
    assert ran.end.usage.completion_tokens == limit
    assert ran.text(2) and whole.text(2).startswith(ran.text(2)), "what was said until then is kept"


async def test_total_tokens_are_never_exceeded(serve, agent):
    async with serve(agent.call("t"), "one two three four five six seven eight nine ten") as model:
        whole = (await agent.run(model, [agent.tool("t")])).end.usage
        total = whole.prompt_tokens + whole.completion_tokens + 1  # the end of the last turn, which is not counted
        for number, limit in enumerate((total - 3, total - 40, total)):
            request = ChatRequest(f"r{number}", (Message("user", "Do."),))
            ran = await agent.run(model, [agent.tool("t")], options("t", total_tokens=limit), request=request)
            assert ran.end.usage.prompt_tokens + ran.end.usage.completion_tokens <= limit
            assert (ran.end.budget is None) == (limit == total)
        with pytest.raises(InvalidRequest, match=r"agent\.max_total_tokens"):
            await agent.run(
                model, [agent.tool("t")], options("t", total_tokens=5), request=replace(request, request_id="x")
            )


async def test_where_prompts_cannot_be_counted_the_round_that_exceeds_the_total_is_the_last(serve, agent):
    async with serve(agent.call("t"), "Never.") as model:
        loop = AgentLoop(ChatPipeline(model), Catalog([agent.tool("t")]), agent.host, Reader(model.max_context))
        run = loop.run(ChatRequest("r", (Message("user", "Do."),)), ANN, options("t", total_tokens=60))
        async with aclosing(run) as events:
            ran = Ran([event async for event in events])
    assert ran.end.budget is Budget.TOTAL_TOKENS and ran.events[-1].round == 1
    assert ran.end.usage.prompt_tokens + ran.end.usage.completion_tokens > 60


async def test_max_tokens_are_for_each_round(serve, agent):
    async with serve(agent.call("t"), agent.call("t"), "Done.") as model:
        whole = (await agent.run(model, [agent.tool("t")])).end.usage.completion_tokens
        stopping = StoppingOptions(max_tokens=whole - 20)
        request = ChatRequest("again", (Message("user", "Do."),), stopping=stopping)
        ran = await agent.run(model, [agent.tool("t")], request=request)
    assert ran.end.reason is FinishReason.STOP and ran.end.usage.completion_tokens == whole > stopping.max_tokens


async def test_bytes_of_results_end_the_run_after_the_result_that_reaches_them(serve, agent):
    async with serve(agent.call("t")) as model:
        ran = await agent.run(model, [agent.tool("t", "x" * 100)], options("t", result_bytes=150))
    assert ran.end.budget is Budget.RESULT_BYTES and len(ran.results) == 2


async def test_time_ends_tools_that_run(serve, agent):
    async def hang(arguments, context):
        await asyncio.Event().wait()
        yield

    async with serve(agent.call("t"), "Never.") as model, asyncio.timeout(10):
        ran = await agent.run(model, [agent.tool("t", hang)], options("t", seconds=0.2))
    assert ran.end.budget is Budget.SECONDS and ran.results[0].result.is_error
    assert ran.end.usage.prompt_tokens > 0 and not ran.text(2)


async def test_time_ends_a_model_that_speaks_and_what_it_said_counts(serve, agent):
    async with serve("word " * 3000, max_len=8192) as model, asyncio.timeout(30):
        ran = await agent.run(model, [agent.tool("t")], options("t", seconds=0.15))
        assert model.handle.snapshot().running == 0
    assert (ran.end.reason, ran.end.budget) == (FinishReason.BUDGET, Budget.SECONDS)
    assert ran.end.usage.prompt_tokens > 0
    assert ran.text(1).count("word") <= ran.end.usage.completion_tokens < 3000


async def test_own_tools_end_the_answer_as_ever(serve, agent):
    request = ChatRequest("r", (Message("user", "Do."),), (ToolSpec("mine", "", "{}"),))
    async with serve(agent.call("mine", "{}")) as model:
        ran = await agent.run(model, [agent.tool("t")], options("t", tool_calls=1), request=request)
    assert ran.end.reason is FinishReason.TOOL_CALLS and ran.end.budget is None


@pytest.mark.parametrize("name", ["seconds", "generated_tokens", "total_tokens", "tool_calls", "result_bytes"])
async def test_a_budget_of_nothing_is_refused(serve, agent, name):
    async with serve("Hi.") as model:
        with pytest.raises(InvalidRequest, match=f"agent.max_{name}"):
            await agent.run(model, [agent.tool("t")], options("t", **{name: 0}))


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=8), st.integers(1, 200), st.integers(1, 200)
)
def test_turns_within_their_allowance_never_exceed_a_budget(turns, generated, total):
    spending = Spending(Limits(generated_tokens=generated, total_tokens=total), lambda: 0.0)
    for prompt, wanted in turns:
        allowance = spending.allowance(prompt)
        if allowance.tokens <= 0 or spending.over:
            break
        limit = bounded(StoppingOptions(max_tokens=wanted or None), allowance).max_tokens
        spending.usage += Usage(prompt, min(wanted, limit))
        assert spending.usage.completion_tokens <= generated
        assert spending.usage.prompt_tokens + spending.usage.completion_tokens <= total

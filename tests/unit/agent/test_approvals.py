"""Calls that need a person's yes, and questions of tools in a run."""

import asyncio
from contextlib import aclosing

import pytest
from narthex_server.agent.events import ToolActivity
from narthex_server.agent.options import AgentOptions, Approvals
from narthex_server.errors import FailedPrecondition, InvalidRequest, NotFound
from narthex_server.pipelines.events import FinishReason
from narthex_server.principal import Principal
from narthex_server.tools.inputs import Answer
from narthex_server.tools.mcp_context import PLAIN, McpContext
from narthex_server.tools.search.searching import Searching
from narthex_server.tools.tool import ApprovalRequest, InputRequest, InputRequired

from tests.unit.agent.scripted import ANN, Ran, said


def needing(*globs: str, **more: float) -> AgentOptions:
    return AgentOptions(("t",), approvals=Approvals(globs, **more))


async def answer(agent, model, tools, options, give, mcp=PLAIN) -> Ran:
    """The run, whose every question `give` answers."""
    found = []
    async with asyncio.timeout(10), aclosing(agent.events(model, tools, options, mcp)) as events:
        async for event in events:
            found.append(event)
            if isinstance(event.event, ToolActivity) and isinstance(event.event.activity, InputRequired):
                give(event.event.activity)
    assert agent.host.running.waiting == 0
    return Ran(found)


def with_answer(agent, **kind):
    return lambda wanted: agent.host.running.answer(
        ANN.tenant, wanted.call_id, [Answer(one.id, **kind) for one in wanted.requests]
    )


async def test_an_approved_call_is_made(serve, agent):
    tool = agent.tool("t")
    async with serve(agent.call("t"), "Done.") as model:
        ran = await answer(agent, model, [tool], needing("t*"), with_answer(agent, approved=True))
    (wanted,) = ran.wanted
    assert wanted.requests == (ApprovalRequest("1", "t", b'{"a": 1}', "the request asks for approval of t*"),)
    assert tool.seen == [b'{"a": 1}'] and ran.results[0].text == "fine" and ran.text(2) == "Done."


async def test_a_person_reads_what_counts_and_every_letter(serve, agent):
    tool = agent.tool("t")
    async with serve(agent.call("t", '{"a": 1, "b": "x\u202ey", "a": 2}'), "Done.") as model:
        ran = await answer(agent, model, [tool], needing("t"), with_answer(agent, approved=True))
    assert ran.wanted[0].requests[0].arguments == b'{"a": 2, "b": "x\\u202ey"}'


async def test_a_refused_call_is_not_made_and_the_model_reads_why(serve, agent):
    tool = agent.tool("t")
    async with serve(agent.call("t"), "I see.") as model:
        give = with_answer(agent, approved=False, reason="ask Bob first")
        ran = await answer(agent, model, [tool], needing("t"), give)
    assert not tool.seen and ran.results[0].result.is_error
    assert "ask Bob first" in ran.results[0].text and ran.end.reason is FinishReason.STOP
    (report,) = agent.reports
    assert (report.name, report.arguments, report.outcome) == ("t", b'{"a": 1}', "denied")
    assert report.context.inputs.call_id == ran.wanted[0].call_id


async def test_nobody_to_ask_is_a_refusal_in_words(serve, agent):
    tool = agent.tool("t")
    async with serve(agent.call("t"), "I see.") as model:
        ran = await agent.run(model, [tool], needing("t"))
    assert not tool.seen and not ran.wanted and "approval" in ran.results[0].text and ran.text(2) == "I see."


async def test_an_answer_that_does_not_come_in_time_is_a_refusal(serve, agent):
    tool = agent.tool("t")
    async with serve(agent.call("t"), "I see.") as model:
        ran = await answer(agent, model, [tool], needing("t", seconds=0.05), lambda wanted: None)
    assert not tool.seen and "nobody approved" in ran.results[0].text


@pytest.mark.parametrize(
    ("annotations", "asked"),
    [(b'{"readOnlyHint": true}', 0), (b'{"readOnlyHint": false}', 1), (b"", 1), (b"[", 1), (b"[]", 1)],
)
async def test_only_declared_readers_go_without_approval(serve, agent, annotations, asked):
    tool = agent.tool("t", annotations=annotations)
    options = AgentOptions(("t",), approvals=Approvals(unless_read_only=True))
    async with serve(agent.call("t"), "Done.") as model:
        ran = await answer(agent, model, [tool], options, with_answer(agent, approved=True))
    assert len(ran.wanted) == asked and tool.seen


async def test_another_tenant_cannot_answer_and_an_answer_must_fit(serve, agent):
    def give(wanted):
        with pytest.raises(NotFound):
            agent.host.running.answer("other", wanted.call_id, [Answer("1", approved=True)])
        with pytest.raises(InvalidRequest):
            agent.host.running.answer(ANN.tenant, wanted.call_id, [Answer("1", result={})])
        with pytest.raises(FailedPrecondition):
            agent.host.running.answer(ANN.tenant, wanted.call_id, [Answer("2", approved=True)])
        with_answer(agent, approved=True)(wanted)

    async with serve(agent.call("t"), "Done.") as model:
        await answer(agent, model, [agent.tool("t")], needing("t"), give)


async def test_the_questions_of_a_tool_reach_the_caller_and_its_time_waits(serve, agent):
    async def ask(arguments, context):
        with context.inputs.expect(lambda given: given.result) as (name, given):
            yield InputRequired(context.inputs.call_id, (InputRequest(name, "elicitation/create", b"{}"),))
            yield said(f"you said {(await given)['word']}")

    options = AgentOptions(("t",), tool_seconds=0.3)

    def give(wanted):
        asyncio.get_running_loop().call_later(0.5, lambda: with_answer(agent, result={"word": "yes"})(wanted))

    async with serve(agent.call("t"), "Done.") as model:
        ran = await answer(agent, model, [agent.tool("t", ask)], options, give)
    assert ran.results[0].text == "you said yes"


async def test_a_call_that_is_over_until_it_is_answered_is_made_again(serve, agent):
    async def ask(arguments, context):
        if not context.mcp.is_again:
            yield InputRequired("c", (InputRequest("name", "elicitation/create", b"{}"),), "state")
        else:
            yield said(f"{context.mcp.input_responses['name']['word']} {context.mcp.request_state}")

    async with serve(agent.call("t"), "Done.") as model:
        tool = agent.tool("t", ask)
        mcp = McpContext({"elicitation": {}})
        ran = await answer(agent, model, [tool], AgentOptions(("t",)), with_answer(agent, result={"word": "yes"}), mcp)
        assert ran.wanted[0].request_state is None and ran.results[0].text == "yes state" and len(tool.seen) == 2


async def test_an_error_for_an_answer_fails_the_call(serve, agent):
    async def ask(arguments, context):
        yield InputRequired("c", (InputRequest("name", "elicitation/create", b"{}"),), "state")

    async with serve(agent.call("t"), "I see.") as model:
        give = with_answer(agent, error={"code": 1, "message": "busy"})
        ran = await answer(agent, model, [agent.tool("t", ask)], AgentOptions(("t",)), give)
    assert ran.results[0].result.is_error and "busy" in ran.results[0].text


async def test_a_tool_that_never_has_enough_is_given_up(serve, agent):
    async def ask(arguments, context):
        yield InputRequired("c", (InputRequest("name", "elicitation/create", b"{}"),), "state")

    async with serve(agent.call("t"), "I see.") as model:
        ran = await answer(agent, model, [agent.tool("t", ask)], AgentOptions(("t",)), with_answer(agent, result={}))
    assert "8 times" in ran.results[0].text and len(ran.wanted) == 8


async def test_a_closed_run_waits_for_nothing(serve, agent):
    async with (
        serve(agent.call("t")) as model,
        asyncio.timeout(10),
        aclosing(agent.events(model, [agent.tool("t")], needing("t"), PLAIN)) as events,
    ):
        async for event in events:
            if isinstance(event.event, ToolActivity):
                assert agent.host.running.waiting == 1
                break
    assert agent.host.running.waiting == 0


async def test_a_principal_without_a_key_has_its_own_questions(serve, agent):
    other = Principal("bob", "other")
    async with serve(agent.call("t"), "Done.") as model, asyncio.timeout(10):
        tool = agent.tool("t")
        async with aclosing(agent.events(model, [tool], needing("t"), PLAIN, principal=other)) as events:
            async for event in events:
                if isinstance(event.event, ToolActivity):
                    agent.host.running.answer("other", event.event.activity.call_id, [Answer("1", approved=True)])
    assert tool.seen


async def test_what_is_called_through_the_search_is_approved_as_itself(serve, agent):
    agent.searching = Searching("on")
    tool = agent.tool("files__delete")
    through = agent.call("tools__call", '{"name": "files__delete", "arguments": {"a": 1}}')
    options = AgentOptions(("tools__call",), approvals=Approvals(("files__*",)))
    async with serve(through, "I see.") as model:
        ran = await answer(agent, model, [tool], options, with_answer(agent, approved=False))
    (wanted,) = ran.wanted
    assert wanted.requests[0].name == "files__delete" and wanted.requests[0].arguments == b'{"a": 1}'
    assert not tool.seen

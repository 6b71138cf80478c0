"""Chats with sessions, resumable ones and those that ask, as the service answers them."""

import asyncio
import json
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import pytest
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire
from narthex.v1 import tool_pb2
from narthex_server.agent.sessions.sessions import SessionLimits, Sessions
from narthex_server.agent.sessions.sqlite import SqliteSessions
from narthex_server.errors import DeadlineExceeded, FailedPrecondition, InvalidRequest, NotFound
from narthex_server.pipelines.models import Models
from narthex_server.principal import CALLER, REQUEST_ID, Principal
from narthex_server.services.agents import Agents
from narthex_server.services.generation import GenerationService
from narthex_server.services.tool import ToolService
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.reach import Reach
from narthex_server.tools.tool import Tool, ToolResult

ANN, EVE = Principal("ann", "t"), Principal("ann", "u")
CALL = '<tool_call>\n{"name": "t", "arguments": {}}\n</tool_call>'


class Call:
    """A call without a deadline."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> float | None:
        return None


class Late(Call):
    """A call whose deadline is now."""

    def time_remaining(self) -> float:
        return 0.0


class Slow:
    """A tool that waits where it is told to."""

    tool = Tool("t", "", "A tool.", b'{"type": "object"}')

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.running = asyncio.Event()
        self.calls = 0

    async def call(self, arguments, context):
        self.calls += 1
        self.running.set()
        await self.go.wait()
        await asyncio.sleep(0)  # what is due, as the end of its time, comes first
        yield ToolResult(json.dumps([{"type": "text", "text": "fine"}]).encode())


@dataclass
class Stack:
    service: GenerationService
    tools: ToolService
    tool: Slow
    agents: Agents

    async def stream(self, spec, **more):
        """All events of a chat."""
        return [one async for one in self.service.ChatStream(wire.ChatStreamRequest(spec=spec, **more), Call())]

    async def messages(self, session):
        found = await self.service.GetSession(wire.GetSessionRequest(id=session), Call())
        return [(one.role, "".join(part.text for part in one.content)) for one in found.messages]


@pytest.fixture
def stack(serve):
    @asynccontextmanager
    async def stack(*replies, agents=None):
        agents = agents or Agents()
        async with serve(*replies, max_len=4096) as model:
            models, tool = Models(), Slow()
            models.add(model)
            catalog = Catalog([tool])
            CALLER.set(ANN)
            REQUEST_ID.set("r")
            service = GenerationService(models, catalog, agents)
            yield Stack(
                service, ToolService(catalog, None, Reach(), agents.host.running, agents.host.kept), tool, agents
            )
            await agents.runs.stop()

    return stack


def chat(text="Do.", server=True, **more):
    messages = [wire.ChatMessage(role=wire.ROLE_USER, content=[wire.ContentPart(text=text)])] if text else []
    execution = wire.TOOL_EXECUTION_SERVER if server else wire.TOOL_EXECUTION_CLIENT
    names = ["t"] if server else []
    return wire.ChatSpec(messages=messages, tool_execution=execution, catalog_tools=names, **more)


def text(events):
    return "".join(one.text_delta.text for one in events)


async def test_a_session_holds_every_turn_and_takes_only_new_ones(stack):
    async with stack(CALL, "It is fine.", "As I said.") as s:
        events = await s.stream(chat(session=wire.SessionUse()))
        name = events[0].started.session_id
        assert text(events[-3:]) and events[-1].finished.finish_reason == common.FINISH_REASON_STOP
        reply = await s.service.Chat(wire.ChatRequest(spec=chat("Sure?", session=wire.SessionUse(id=name))), Call())
        assert reply.session_id == name and reply.messages[0].content[0].text == "As I said."
        assert reply.finished.usage.cached_tokens > 0
        roles = [wire.ROLE_USER, wire.ROLE_ASSISTANT, wire.ROLE_TOOL, wire.ROLE_ASSISTANT, wire.ROLE_USER]
        held = await s.messages(name)
        assert [role for role, _ in held] == [*roles, wire.ROLE_ASSISTANT]
        assert held[2][1] == "fine" and held[-1][1] == "As I said."
        (listed,) = (await s.service.ListSessions(wire.ListSessionsRequest(), Call())).sessions
        assert listed.id == name and listed.message_count == 6 and not listed.unfinished
        await s.service.DeleteSession(wire.DeleteSessionRequest(id=name), Call())
        with pytest.raises(NotFound):
            await s.messages(name)


async def test_sessions_are_listed_the_latest_first_in_pages(stack):
    async with stack("Hi.") as s:
        names = []
        for number in range(3):
            REQUEST_ID.set(f"r{number}")
            names.append((await s.stream(chat(server=False, session=wire.SessionUse())))[0].started.session_id)
            await asyncio.sleep(0.002)  # they are told apart by milliseconds
        first = await s.service.ListSessions(wire.ListSessionsRequest(page_size=2), Call())
        rest = wire.ListSessionsRequest(page_size=2, page_token=first.next_page_token)
        second = await s.service.ListSessions(rest, Call())
        assert [one.id for one in (*first.sessions, *second.sessions)] == names[::-1]


async def test_another_tenant_has_no_such_session_or_run(stack):
    async with stack("Hi.") as s:
        started = (await s.stream(chat(session=wire.SessionUse()), resumable=True))[0].started
        CALLER.set(EVE)
        for attempt in (
            s.messages(started.session_id),
            s.stream(chat(session=wire.SessionUse(id=started.session_id))),
            s.service.DeleteSession(wire.DeleteSessionRequest(id=started.session_id), Call()),
            anext(s.service.ResumeChat(wire.ResumeChatRequest(run_id=started.run_id), Call())),
        ):
            with pytest.raises(NotFound):
                await attempt


async def test_two_runs_on_one_session_are_refused(stack):
    async with stack(CALL, "Fine.") as s:
        name = (await s.stream(chat(session=wire.SessionUse())))[0].started.session_id
        s.tool.go.clear()
        s.tool.running.clear()
        running = asyncio.create_task(s.stream(chat("Again.", session=wire.SessionUse(id=name))))
        await asyncio.sleep(0)
        with pytest.raises(FailedPrecondition) as caught:
            await s.stream(chat("Me too.", session=wire.SessionUse(id=name)))
        assert caught.value.reason == "SESSION_BUSY"
        s.tool.go.set()
        await running


async def test_a_request_that_is_refused_leaves_the_session_as_it_was(stack):
    async with stack("Hi.") as s:
        name = (await s.stream(chat(session=wire.SessionUse())))[0].started.session_id
        before = await s.messages(name)
        for bad in (chat("x " * 9000, session=wire.SessionUse(id=name)), chat(session=wire.SessionUse(id=name), n=2)):
            with pytest.raises(InvalidRequest):
                await s.stream(bad)
        assert await s.messages(name) == before


async def test_a_budget_leaves_a_session_that_can_go_on(stack):
    async with stack(CALL, CALL, "Done.") as s:
        limits = wire.AgentOptions(max_tool_calls=1)
        events = await s.stream(chat(session=wire.SessionUse(), agent=limits))
        end = events[-1].finished
        assert (end.finish_reason, end.budget) == (common.FINISH_REASON_BUDGET, common.BUDGET_TOOL_CALLS)
        name = events[0].started.session_id
        assert "was not made" in (await s.messages(name))[-1][1]
        REQUEST_ID.set("again")
        events = await s.stream(chat("", session=wire.SessionUse(id=name, continue_run=True)))
        assert text(events) == "Done."
        for wrong in (chat("", session=wire.SessionUse(id=name, continue_run=True)),):
            with pytest.raises(FailedPrecondition) as caught:
                await s.stream(wrong)
            assert caught.value.reason == "SESSION_COMPLETE"
        with pytest.raises(InvalidRequest):
            await s.stream(chat("New.", session=wire.SessionUse(id=name, continue_run=True)))


async def test_a_run_that_a_crash_broke_off_goes_on_from_its_last_complete_round(stack, tmp_path):
    def agents():
        store = SqliteSessions(tmp_path / "s.db", 60, lambda: 1000.0)
        return Agents(sessions=Sessions(store, SessionLimits(), lambda: 1000.0))

    async with stack(CALL, CALL, "Done.", agents=agents()) as s, asyncio.timeout(20):
        events = s.service.ChatStream(wire.ChatStreamRequest(spec=chat(session=wire.SessionUse())), Call())
        async with aclosing(events):
            async for one in events:
                if one.HasField("started"):
                    name = one.started.session_id
                if one.HasField("tool_result"):
                    s.tool.go.clear()
                if one.round == 2 and one.HasField("tool_call"):
                    break
    async with stack(CALL, CALL, "Done.", agents=agents()) as s:
        assert [role for role, _ in await s.messages(name)] == [wire.ROLE_USER, wire.ROLE_ASSISTANT, wire.ROLE_TOOL]
        events = await s.stream(chat("", session=wire.SessionUse(id=name, continue_run=True)))
        assert s.tool.calls == 1 and text(events).endswith("Done.")
        assert len(await s.messages(name)) == 6


async def test_a_dropped_stream_of_a_resumable_run_is_joined_again(stack):
    async with stack(f"Let me see. {CALL}", "It is fine.") as s, asyncio.timeout(20):
        whole = await s.stream(chat())
        s.tool.go.clear()
        REQUEST_ID.set("again")
        seen = []
        events = s.service.ChatStream(wire.ChatStreamRequest(spec=chat(), resumable=True), Call())
        async with aclosing(events):
            async for one in events:
                seen.append(one)
                if one.HasField("tool_call"):
                    break
        await s.tool.running.wait()
        s.tool.go.set()
        asked = wire.ResumeChatRequest(run_id=seen[0].started.run_id, after_sequence=seen[-1].sequence)
        seen += [one.event async for one in s.service.ResumeChat(asked, Call())]
        assert [one.sequence for one in seen] == list(range(1, len(seen) + 1))
        assert text(seen) == text(whole) and seen[-1].HasField("finished") and s.tool.calls == 2
        assert {one.sequence for one in whole} == {0}


async def test_the_deadline_of_its_stream_is_not_a_resumable_runs(stack):
    async with stack(CALL, "Done.") as s, asyncio.timeout(20):
        asked = wire.ChatStreamRequest(spec=chat(), resumable=True)
        events = [one async for one in s.service.ChatStream(asked, Late())]
        (result,) = [one.tool_result for one in events if one.HasField("tool_result")]
        assert not result.result.is_error
        with pytest.raises(DeadlineExceeded):
            _ = [one async for one in s.service.ChatStream(wire.ChatStreamRequest(spec=chat()), Late())]


async def test_abort_ends_a_resumable_run(stack):
    async with stack(CALL, "Fine.") as s, asyncio.timeout(20):
        s.tool.go.clear()
        running = asyncio.create_task(s.stream(chat(), resumable=True))
        await s.tool.running.wait()
        assert (await s.service.Abort(wire.AbortRequest(request_ids=["r"]), Call())).aborted_request_ids == ["r"]
        assert (await running)[-1].finished.finish_reason == common.FINISH_REASON_CANCELLED


async def test_approvals_are_asked_for_and_answered_over_the_tool_service(stack):
    async with stack(CALL, "Done.") as s, asyncio.timeout(20):
        agent = wire.AgentOptions(approvals=wire.ApprovalOptions(tools=["t"]))
        asked = wire.ChatStreamRequest(spec=chat(agent=agent), mcp=tool_pb2.McpContext())
        events = []
        async for one in s.service.ChatStream(asked, Call()):
            events.append(one)
            if one.HasField("tool_activity"):
                wanted = one.tool_activity.input_required
                assert wanted.requests[0].approval.name == "t" and one.tool_activity.tool_call_id
                no = tool_pb2.InputResponse(id=wanted.requests[0].id, approved=False, reason="not today")
                answer = tool_pb2.RespondRequest(call_id=wanted.call_id, responses=[no])
                assert (await s.tools.Respond(answer, Call())).waiting == 0
        result = next(one.tool_result for one in events if one.HasField("tool_result"))
        assert result.result.is_error and "not today" in result.text and s.tool.calls == 0
        reply = await s.service.Chat(wire.ChatRequest(spec=chat(agent=agent)), Call())
        assert "nobody can be asked" in reply.messages[1].content[0].text


async def test_kept_results_are_read_as_resources_by_their_caller(stack):
    async with stack("Hi.") as s:
        uri = s.agents.host.kept.keep(ANN, "the whole")
        read = await s.tools.ReadResource(tool_pb2.ReadResourceRequest(uri=uri), Call())
        assert read.contents[0].text == "the whole" and read.contents[0].mime_type == "text/plain"
        CALLER.set(EVE)
        with pytest.raises(NotFound):
            await s.tools.ReadResource(tool_pb2.ReadResourceRequest(uri=uri), Call())


@pytest.mark.parametrize("server", [True, False])
async def test_without_parallel_calls_the_first_one_counts(stack, server):
    async with stack(CALL + CALL, "Done.") as s:
        tools = [] if server else [wire.ToolSpec(name="t", parameters=b'{"type": "object"}')]
        events = await s.stream(chat(server=server, tools=tools, parallel_tool_calls=False))
        first = [one for one in events if one.round == 1]
        assert sum(one.HasField("tool_call") for one in first) == 1
        assert sum(one.HasField("tool_call_started") for one in first) == 1
        assert s.tool.calls == server


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        (wire.ToolChoice(mode=wire.TOOL_CHOICE_MODE_AUTO), 1), (wire.ToolChoice(mode=wire.TOOL_CHOICE_MODE_NONE), 0),
        (wire.ToolChoice(mode=wire.TOOL_CHOICE_MODE_REQUIRED), 1), (wire.ToolChoice(name="t"), 1),
    ],
)  # fmt: skip
async def test_choices_hold_for_tools_of_the_catalog(stack, choice, called):
    async with stack(CALL, "Done.") as s:
        events = await s.stream(chat(tool_choice=choice))
        assert s.tool.calls == called and events[-1].finished.finish_reason == common.FINISH_REASON_STOP

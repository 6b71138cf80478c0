import asyncio

import pytest
from narthex_server.errors import Unavailable
from narthex_server.principal import LOCAL, Principal
from narthex_server.tools.mcp_context import McpContext
from narthex_server.tools.results.rule import CacheRule
from narthex_server.tools.results.telling import MAX_BYTES
from narthex_server.tools.tool import InputRequest, InputRequired, Log, Progress, ToolResult

ANN, AMY, BOB = Principal("ann", "a"), Principal("amy", "a"), Principal("bob", "b")


async def test_the_same_call_is_made_once_until_its_time_is_over(scene):
    first, second = scene.call(b'{"a":1,"b":2}'), scene.call(b'{"b":2, "a":1}')
    assert await scene.events_of(first) == await scene.events_of(second)
    assert (first.trail.cached, second.trail.cached, scene.calls) == (False, True, 1)
    scene.now = 9.9
    assert await scene.ask(b'{"a":1,"b":2}') == b'["1"]'
    scene.now = 10
    assert await scene.ask(b'{"a":1,"b":2}') == b'["2"]'
    assert scene.lookups == ["miss", "hit", "hit", "miss"]


async def test_other_arguments_and_other_tools_are_other_calls(scene):
    scene.cache = CacheRule(("read", "list"))
    for each in ((b'{"a":1}',), (b'{"a":1.0}',), (b"{}",), (b"{}", "list")):
        assert await scene.ask(*each) == b'["%d"]' % scene.calls
    assert scene.calls == 4


async def test_a_tool_that_is_described_otherwise_is_another(scene):
    await scene.ask()
    for changed in ({"input_schema": b'{"type":"object"}'}, {"description": "other"}, {"annotations": b"{}"}):
        before = scene.calls
        await scene.ask(**changed)
        assert scene.calls == before + 1


@pytest.mark.parametrize("more", [{"server": ""}, {"server": "gone"}, {"tool": "write"}])
async def test_other_tools_are_called_each_time(scene, more):
    await scene.ask(**more)
    await scene.ask(**more)
    assert scene.calls == 2 and scene.lookups == []


async def test_a_server_whose_results_are_not_to_be_kept_has_none(scene):
    scene.cache = None
    await scene.ask()
    await scene.ask()
    assert scene.calls == 2


async def test_tenants_never_have_each_others_results(scene):
    assert await scene.ask(who=ANN) == await scene.ask(who=AMY) == b'["1"]'
    assert await scene.ask(who=BOB) == b'["2"]'


async def test_tenants_never_share_a_call(scene):
    scene.go.clear()
    calls = [scene.begin(who=who) for who in (ANN, BOB, AMY)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert scene.calls == 2
    scene.go.set()
    assert [(await call)[-1].content for call in calls] == [b'["1"]', b'["2"]', b'["1"]']


async def test_sessions_share_what_their_server_says_they_share(scene):
    scene.edition_of = {("a", "1"): "one", ("a", "2"): "two"}
    numbers = [await scene.ask(who=ANN, session=session) for session in "1212"]
    assert numbers == [b'["1"]', b'["2"]', b'["1"]', b'["2"]']


async def test_a_server_that_is_another_is_asked_again(scene):
    await scene.ask()
    scene.edition = 2
    assert await scene.ask() == b'["2"]' == await scene.ask()


@pytest.mark.parametrize("end", [None, ToolResult(b"[]", is_error=True), Unavailable("half done")])
async def test_a_call_that_may_write_makes_the_server_be_asked_again(scene, end):
    await scene.ask()
    scene.end = end
    if isinstance(end, Exception):
        with pytest.raises(Unavailable):
            await scene.ask(tool="write")
    else:
        await scene.ask(tool="write")
    scene.end = None
    assert await scene.ask() == b'["3"]'
    await scene.ask(tool="stat", annotations=b'{"readOnlyHint":true}')
    assert await scene.ask() == b'["3"]'


async def test_what_was_read_while_somebody_wrote_is_not_kept(scene):
    scene.go.clear()
    writing = scene.begin(tool="write")
    await scene.begun.wait()
    reading = scene.begin()
    for _ in range(5):
        await asyncio.sleep(0)
    scene.go.set()
    await asyncio.gather(writing, reading)
    assert await scene.ask() == b'["3"]'


@pytest.mark.parametrize(
    "end", [ToolResult(b"[]", is_error=True), ToolResult(b"[]", faulted=True), Unavailable("it is down")]
)
async def test_failures_are_not_kept(scene, end):
    scene.end = end
    if isinstance(end, Exception):
        with pytest.raises(Unavailable):
            await scene.ask()
    else:
        await scene.ask()
    scene.end = None
    assert await scene.ask() == b'["2"]' and len(scene.store) == 1


async def test_what_was_asked_for_on_the_way_or_warned_of_is_not_kept(scene):
    wish = InputRequired("1", (InputRequest("1", "sampling/createMessage", b"{}"),))
    for events, kept in (
        ((wish,), False), ((Log("warning", "", b'""'),), False), ((Log("info", "", b'""'), Progress(1)), True)
    ):  # fmt: skip
        scene.events = events
        assert (await scene.events_of(scene.call()))[:-1] == list(events)
        assert bool(len(scene.store)) is kept


async def test_a_call_that_ends_with_a_wish_leaves_nothing(scene):
    async def run(call):
        yield InputRequired("1", (), "state")

    assert [event async for event in scene.step.around(scene.call(), run)] == [InputRequired("1", (), "state")]
    assert len(scene.store) == 0


@pytest.mark.parametrize(
    "more",
    [
        {"mcp": McpContext(input_responses={"1": {}})}, {"mcp": McpContext(request_state="")}, {"raw": b'{"a":1e999}'},
        {"raw": b'{"a":"' + b"x" * MAX_BYTES + b'"}'},
    ],
)  # fmt: skip
async def test_calls_that_cannot_be_compared_pass(scene, more):
    assert [await scene.ask(**more), await scene.ask(**more)] == [b'["1"]', b'["2"]']
    assert scene.lookups == ["bypassed"] * 2


async def test_callers_who_can_answer_other_things_are_told_other_things(scene):
    await scene.ask()
    assert await scene.ask(mcp=McpContext(capabilities={"elicitation": {}})) == b'["2"]'


async def test_a_reader_sees_what_it_sees_without_the_step(scene):
    scene.events = tuple(Progress(number) for number in range(20))
    assert (await scene.events_of(scene.call()))[:-1] == list(scene.events)
    assert LOCAL.tenant == scene.call().context.principal.tenant

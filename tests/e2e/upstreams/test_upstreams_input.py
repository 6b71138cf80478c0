"""What upstreams ask of callers, over real servers of both eras."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from narthex_server.errors import DeadlineExceeded, FailedPrecondition, InvalidRequest, NotFound, Unavailable
from narthex_server.principal import LOCAL, Principal
from narthex_server.tools.inputs import Answer, Inputs
from narthex_server.tools.mcp_context import McpContext
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import CallContext, InputRequired, Log, Progress, ToolResult

SERVERS = Path(__file__).parent / "servers"
ALL = {"sampling": {}, "elicitation": {"form": {}, "url": {}}, "roots": {}}
ADA = {"action": "accept", "content": {"name": "Ada"}}
HELLO = {"role": "assistant", "content": {"type": "text", "text": "Hello!"}, "model": "m", "stopReason": "endTurn"}
ROOTS = {"roots": [{"uri": "file:///srv", "name": "srv"}]}


class Caller:
    """A caller that answers what it is asked, by method; what it was asked is kept."""

    def __init__(self, running, principal=LOCAL, capabilities=ALL, **answers):
        self.running = running
        self.asked = []
        self.inputs = Inputs("call")
        self.context = CallContext(principal, "request", mcp=McpContext(capabilities), inputs=self.inputs)
        self.answers = answers

    async def call(self, name, seconds=None, **mcp):
        """All events; the last one is the end."""
        deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        context = replace(self.context, deadline=deadline, mcp=replace(self.context.mcp, **mcp))
        events = []
        async with asyncio.timeout(30), aclosing(self.running.catalog.call(name, b"{}", context)) as stream:
            async for event in stream:
                events.append(event)
                if isinstance(event, InputRequired) and event.request_state is None:
                    self.answer(event)
        return events

    def answer(self, event):
        for one in event.requests:
            self.asked.append((one.method, json.loads(one.params)))
            if (answer := self.answers.get(one.method.partition("/")[0])) is not None:
                self.inputs.answer([Answer(one.id, result=answer)])


def text(events) -> str:
    assert isinstance(events[-1], ToolResult), events
    return json.loads(events[-1].content)[0]["text"]


async def idle(inputs) -> None:
    """Returns when nothing waits."""
    async with asyncio.timeout(5):
        while inputs.waiting:  # noqa: ASYNC110 (its end is no event)
            await asyncio.sleep(0)


def old(entry, **more):
    return {**entry, "protocol": "handshake", **more}


@pytest.fixture(scope="module")
def url():
    """Where asking.py is, one process for all tests here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, SERVERS / "asking.py", "http", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while b"running on" not in process.stderr.readline():
            assert process.poll() is None
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield f"http://127.0.0.1:{port}/mcp"
        process.kill()


@pytest.fixture
async def asking(gateway, url):
    """A gateway to a server that asks while a call runs."""
    async with gateway({"it": old({"url": url})}) as running:
        yield running


@pytest.fixture
async def piped(gateway, script):
    """The same as a child process."""
    async with gateway({"it": old(script("asking", "stdio"))}) as running:
        yield running


@pytest.fixture
async def modern(gateway, url):
    """A gateway to a server of 2026-07-28, which asks by its results."""
    async with gateway({"it": {"url": url}}) as running:
        yield running


@pytest.mark.parametrize(
    ("tool", "method", "answer"),
    [
        ("form", "elicitation/create", ADA),
        ("url", "elicitation/create", {"action": "decline"}),
        ("sample", "sampling/createMessage", HELLO),
        ("roots", "roots/list", ROOTS),
    ],
)
async def test_a_request_reaches_the_caller_and_the_answer_the_tool(asking, tool, method, answer):
    caller = Caller(asking, **{method.partition("/")[0]: answer})
    events = await caller.call(f"it__{tool}")
    assert json.loads(text(events)).items() >= answer.items() and [m for m, _ in caller.asked] == [method]
    if tool == "form":
        assert [type(event) for event in events] == [Progress, InputRequired, ToolResult]
        assert caller.asked[0][1]["requestedSchema"]["required"] == ["name"]


async def test_a_request_reaches_the_caller_through_a_pipe_too(piped):
    for tool, answers in (("form", {"elicitation": ADA}), ("sample", {"sampling": HELLO}), ("roots", {"roots": ROOTS})):
        caller = Caller(piped, **answers)
        (answer,) = answers.values()
        assert json.loads(text(await caller.call(f"it__{tool}"))).items() >= answer.items()


async def test_requests_of_one_call_are_answered_one_by_one(asking):
    caller = Caller(asking)
    waiting = []
    async with asyncio.timeout(30), aclosing(asking.catalog.call("it__both", b"{}", caller.context)) as events:
        async for event in events:
            if isinstance(event, InputRequired):
                waiting += event.requests
            if len(waiting) == 2:
                one, two = sorted(waiting, key=lambda request: request.method)
                assert caller.inputs.answer([Answer(two.id, result=ROOTS)]) == 1
                with pytest.raises(FailedPrecondition):
                    caller.inputs.answer([Answer(two.id, result=ROOTS)])
                assert caller.inputs.answer([Answer(one.id, result=ADA)]) == 0
                waiting.clear()
    assert json.loads(text([event])) == {"form": ADA, "roots": ROOTS}


async def test_a_caller_is_not_asked_for_what_it_does_not_offer(asking):
    for capabilities, tool, code in (
        ({}, "form", -32601),
        ({"elicitation": {"form": {}}}, "url", -32602),
        ({"elicitation": {"url": {}}}, "form", -32602),
        ({"elicitation": {}}, "sample", -32601),
        ({"sampling": {}}, "roots", -32601),
    ):
        events = await Caller(asking, capabilities=capabilities).call(f"it__{tool}")
        assert text(events).startswith(str(code)) and not any(isinstance(e, InputRequired) for e in events)


async def test_an_error_is_an_answer_too_and_misfits_are_none(asking):
    caller = Caller(asking)
    async with asyncio.timeout(30), aclosing(asking.catalog.call("it__form", b"{}", caller.context)) as events:
        async for event in events:
            if isinstance(event, InputRequired):
                (request,) = event.requests
                for misfit in ({"action": "maybe"}, {}, HELLO):
                    with pytest.raises(InvalidRequest):
                        caller.inputs.answer([Answer(request.id, result=misfit)])
                with pytest.raises(InvalidRequest):
                    caller.inputs.answer([Answer(request.id, error={"code": "x"})])
                with pytest.raises(InvalidRequest):
                    caller.inputs.answer([Answer(request.id, result=ADA)] * 2)
                caller.inputs.answer([Answer(request.id, error={"code": -1, "message": "no"})])
    assert text([event]) == "-1 no"


async def test_input_that_never_comes_ends_at_the_deadline(asking):
    caller = Caller(asking)
    with pytest.raises(DeadlineExceeded):
        await caller.call("it__form", 0.5)
    assert len(caller.asked) == 1
    await idle(caller.inputs)


async def test_a_cancelled_call_waits_for_nothing(asking):
    caller = Caller(asking)
    async with aclosing(asking.catalog.call("it__form", b"{}", caller.context)) as events:
        async for event in events:
            if isinstance(event, InputRequired):
                break
    await idle(caller.inputs)
    assert json.loads(text(await Caller(asking, elicitation=ADA).call("it__form"))) == ADA


@pytest.mark.parametrize("tool", ["impatient", "rude"])
async def test_a_request_that_its_server_gives_up_waits_no_longer(asking, tool):
    caller = Caller(asking)
    events = await caller.call(f"it__{tool}")
    assert len(caller.asked) == 1
    await idle(caller.inputs)
    assert text(events).startswith("-32001" if tool == "impatient" else "never")


async def test_callers_in_flight_over_http_are_told_apart(asking):
    names = [f"caller {n}" for n in range(4)]
    callers = [Caller(asking, Principal(n, n), elicitation={"action": "accept", "content": {"name": n}}) for n in names]
    ends = await asyncio.gather(*(caller.call("it__form") for caller in callers))
    assert [json.loads(text(end))["content"]["name"] for end in ends] == names


async def held(running, context):
    """A call that goes on, once it is known to be in flight."""
    events = running.catalog.call("it__hold", b"{}", context)
    assert isinstance(await anext(events), Progress)
    return events


async def test_over_one_pipe_a_request_goes_to_the_latest_call_of_its_one_caller_or_to_nobody(gateway, script):
    async with gateway({"it": script("blunt")}) as running:
        mine, theirs = Caller(running, elicitation=ADA), CallContext(Principal("eve", "other"), "r", inputs=Inputs("x"))
        async with aclosing(await held(running, mine.context)):
            await mine.call("it__ask_now")
            assert len(mine.asked) == 1
        async with aclosing(await held(running, theirs)):
            events = await mine.call("it__ask_now")
            assert not any(isinstance(event, InputRequired) for event in events)
        answers = json.loads(text(await mine.call("it__heard")))
        assert answers[-1]["code"] == -32600 and "several callers" in answers[-1]["message"]


async def test_what_a_read_is_asked_reaches_no_call_of_another(gateway, script):
    async with gateway({"it": script("blunt")}) as running:
        mine, theirs = Caller(running, elicitation=ADA), CallContext(Principal("eve", "other"), "r", inputs=Inputs("x"))

        async def read(context):
            return json.loads((await running.catalog.read("x:asks", "", context)).parts[0].content)

        async with asyncio.timeout(30), aclosing(await held(running, mine.context)) as events:
            refused = await read(theirs)
            assert refused["code"] == -32600 and "several callers" in refused["message"]
            assert not mine.inputs.waiting and not theirs.inputs.waiting
            reading = asyncio.create_task(read(mine.context))
            mine.answer(await anext(events))
            assert await reading == ADA, "the only event, and the caller's own"


async def test_requests_without_a_call_and_garbage_are_refused(gateway, script):
    async with gateway({"it": script("blunt")}) as running:
        caller = Caller(running, elicitation=ADA)
        for tool in ("late", "garbage", "strange"):
            assert text(await caller.call(f"it__{tool}")) == "done"
        answers: list = []
        async with asyncio.timeout(10):
            while len(answers) < 4:
                answers = json.loads(text(await caller.call("it__heard")))
        assert {answer["code"] for answer in answers} <= {-32600, -32601, -32602}
        assert not caller.asked and running.status("it").state is ServerState.READY


async def test_a_server_that_dies_while_it_is_waited_for_ends_the_waiting(gateway, script):
    async with gateway({"it": script("asking", "stdio") | {"protocol": "2025-11-25"}}) as running:
        caller = Caller(running)
        events = running.catalog.call("it__form", b"{}", caller.context)
        async with asyncio.timeout(30), aclosing(events):
            with pytest.raises(Unavailable):
                async for event in events:
                    if isinstance(event, InputRequired):
                        reconnecting = asyncio.create_task(running.catalog.reconnect("it"))
        await reconnecting
        await idle(caller.inputs)


async def test_the_servers_own_limit_stands_still_while_it_waits_for_the_caller(gateway, url):
    async with gateway({"it": old({"url": url})}, call_timeout=0.6) as running:
        caller = Caller(running)
        async with asyncio.timeout(30), aclosing(running.catalog.call("it__form", b"{}", caller.context)) as events:
            async for event in events:
                if isinstance(event, InputRequired):
                    await asyncio.sleep(0.8)
                    caller.inputs.answer([Answer(event.requests[0].id, result=ADA)])
        assert json.loads(text([event])) == ADA


async def test_urls_to_visit_first_are_input_too(asking):
    (end,) = await Caller(asking).call("it__visit_first")
    assert isinstance(end, InputRequired) and end.request_state == ""
    assert json.loads(end.requests[0].params)["url"] == "https://example.com/in"
    (end,) = await Caller(asking, capabilities={}).call("it__visit_first")
    assert end.is_error


async def test_a_result_that_wants_input_ends_the_call_and_the_next_one_brings_it(modern):
    assert modern.status("it").protocol_version == "2026-07-28"
    caller = Caller(modern)
    (end,) = await caller.call("it__twice")
    assert isinstance(end, InputRequired) and end.request_state and end.call_id == "call"
    assert [(one.id, one.method) for one in end.requests] == [("who", "elicitation/create")]
    events = await caller.call("it__twice", input_responses={"who": ADA}, request_state=end.request_state)
    assert json.loads(text(events)) == {"state": "s1", "who": ADA}


async def test_a_state_that_the_server_refuses_is_an_error_and_no_result(modern):
    with pytest.raises(InvalidRequest) as caught:
        await Caller(modern).call("it__twice", input_responses={"who": ADA}, request_state="forged")
    assert caught.value.reason == "INVALID_REQUEST_STATE" and caught.value.metadata["jsonrpc_code"] == "-32602"


async def test_a_caller_that_cannot_be_asked_is_told_what_it_lacks(modern):
    for tool, lacked in (("twice", {"elicitation": {"form": {}}}), ("needs_sampling", {"sampling": {}})):
        with pytest.raises(FailedPrecondition) as caught:
            await Caller(modern, capabilities={}).call(f"it__{tool}")
        assert caught.value.reason == "MISSING_CLIENT_CAPABILITY"
        assert json.loads(caught.value.metadata["required_capabilities"]) == lacked


async def test_capabilities_level_and_meta_are_those_of_the_call(modern):
    mine = {"traceparent": "00-1", "progressToken": 7, "io.modelcontextprotocol/clientInfo": {"name": "forged"}}
    capabilities = {"elicitation": {"form": {}}}
    calls = (
        Caller(modern, capabilities=capabilities).call("it__meta", meta=mine, log_level="error"),
        Caller(modern).call("it__meta", log_level="off"),
    )
    (*_, first), (*_, second) = await asyncio.gather(*calls)
    seen, other = (json.loads(json.loads(end.content)[0]["text"])["meta"] for end in (first, second))
    assert seen["io.modelcontextprotocol/clientCapabilities"] == capabilities
    assert seen["io.modelcontextprotocol/logLevel"] == "error" and seen["traceparent"] == "00-1"
    assert seen["io.modelcontextprotocol/clientInfo"]["name"] == "narthex" and seen.get("progressToken") != 7
    assert "io.modelcontextprotocol/logLevel" not in other
    assert other["io.modelcontextprotocol/clientCapabilities"] == ALL
    assert json.loads(first.meta) == {"example.com/served": True}


@pytest.mark.parametrize(
    ("level", "expected"), [("debug", ["debug", "info", "error"]), ("info", ["info", "error"]), ("off", [])]
)
async def test_only_messages_of_the_calls_level_come(modern, level, expected):
    events = await Caller(modern).call("it__logs", log_level=level)
    assert [event.level for event in events if isinstance(event, Log)] == expected


async def test_an_old_server_is_told_the_lowest_level_that_was_asked_for(gateway, script):
    async with gateway({"it": script("blunt")}) as running:
        caller = Caller(running)
        got = []
        for level in ("error", "debug", None, "off"):
            events = await caller.call("it__logs", log_level=level)
            got.append(([event.level for event in events if isinstance(event, Log)], text(events)))
        assert got == [
            (["error"], "info"), (["debug", "info", "error"], "debug"), (["info", "error"], "debug"), ([], "debug"),
        ]  # fmt: skip
        running.catalog.set_log_level(LOCAL, "error", "it")
        assert [e.level for e in await caller.call("it__logs") if isinstance(e, Log)] == ["error"]
        running.catalog.set_log_level(LOCAL, "off")
        assert [e.level for e in await caller.call("it__logs") if isinstance(e, Log)] == []
        with pytest.raises(NotFound):
            running.catalog.set_log_level(LOCAL, "off", "nobody")


async def test_an_old_server_gets_meta_and_no_answers(gateway, script):
    async with gateway({"it": script("blunt")}) as running:
        events = await Caller(running).call(
            "it__state", meta={"a.b/c": 1, "progressToken": 9}, input_responses={"x": {}}, request_state="s"
        )
        seen = json.loads(text(events))
        assert seen["_meta"]["a.b/c"] == 1 and seen["_meta"]["progressToken"] != 9
        assert not {"inputResponses", "requestState"} & seen.keys()


class Parrot:
    """A Sampler that counts what it is asked."""

    def __init__(self) -> None:
        self.asked = []

    async def sample(self, params, context):
        self.asked.append((params, context.principal))
        return {**HELLO, "content": {"type": "text", "text": f"hello {len(self.asked)}"}}


async def test_a_model_answers_where_the_configuration_says_so(gateway, url):
    parrot = Parrot()
    async with gateway({"it": old({"url": url}, sampling="model")}, parrot) as running:
        events = await Caller(running, capabilities={}).call("it__sample")
        assert json.loads(text(events))["content"]["text"] == "hello 1" and len(events) == 1
        ((params, principal),) = parrot.asked
        assert params["systemPrompt"] == "Be brief" and params["maxTokens"] == 8 and principal == LOCAL


async def test_a_models_answers_go_with_the_callers(gateway, url):
    parrot = Parrot()
    async with gateway({"it": {"url": url, "sampling": "model"}}, parrot) as running:
        caller = Caller(running, capabilities={"elicitation": {}})
        (end,) = await caller.call("it__sampled")
        assert isinstance(end, InputRequired) and [one.id for one in end.requests] == ["who"]
        events = await caller.call("it__sampled", input_responses={"who": ADA}, request_state=end.request_state)
        assert text(events) == "then hello 1, hello 2, Ada"
        for forged in ("[]", "{", "[" * 100_000, '{"state": 3, "answers": {}}'):
            with pytest.raises(InvalidRequest) as caught:
                await caller.call("it__sampled", request_state=forged)
            assert caught.value.reason == "INVALID_REQUEST_STATE"
        with pytest.raises(FailedPrecondition) as caught:
            await caller.call("it__insatiable")
        assert caught.value.reason == "TOO_MANY_ROUNDS"


@pytest.mark.parametrize("protocol", ["auto", "handshake"])
async def test_sampling_can_be_refused(gateway, url, protocol):
    entry = {"url": url, "sampling": "refuse", "protocol": protocol}
    async with gateway({"it": entry}) as running:
        caller = Caller(running, sampling=HELLO)
        if protocol == "handshake":
            assert text(await caller.call("it__sample")).startswith("-32")
        else:
            seen = json.loads(text(await caller.call("it__meta")))["meta"]
            assert "sampling" not in seen["io.modelcontextprotocol/clientCapabilities"]
        assert not caller.asked


async def test_a_pinned_version_is_spoken_or_the_upstream_is_down(gateway, script, url):
    servers = {
        "pinned": {"url": url, "protocol": "2025-11-25"},
        "old": script("blunt") | {"protocol": "2026-07-28"},
    }
    async with gateway(servers) as running:
        assert running.status("pinned").protocol_version == "2025-11-25"
        assert running.status("old").state is ServerState.UNHEALTHY and "2026-07-28" in running.status("old").reason

"""The policy around calls of a catalog: refusals, questions, limits, and what is visible."""

import asyncio
import json
from contextlib import aclosing
from dataclasses import replace

import pytest
from narthex_server.errors import DeadlineExceeded, InvalidToolArguments, NotFound, PermissionDenied, ResourceExhausted
from narthex_server.principal import Principal
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.completion import PromptReference, TemplateReference, Typed
from narthex_server.tools.inputs import Answer, Inputs
from narthex_server.tools.mcp_context import McpContext
from narthex_server.tools.policy.approvals import MOST_SHOWN, Approvals
from narthex_server.tools.policy.document import read_policy
from narthex_server.tools.policy.step import PolicyStep
from narthex_server.tools.policy.subject import subject_of
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import ApprovalRequest, CallContext, InputRequest, InputRequired, Tool, ToolResult

CI, EVE = Principal("ci", "acme"), Principal("eve", "other")
ELICITS = McpContext({"elicitation": {}})


class Rules:
    """The rules of the moment, and all that was observed."""

    def __init__(self, text: str) -> None:
        self.seen = []
        self.set(text)

    def set(self, text: str) -> None:
        self.policy = read_policy(text.encode(), "policy.toml")

    def shows(self, item, principal) -> bool:
        return self.policy.plan(principal, subject_of(item)).visible

    def on_decision(self, *what) -> None:
        self.seen.append(what)

    on_approval = on_limit = on_decision


class Asking:
    """A native tool that wants input and a call again, and then says with what it was called."""

    tool = Tool("asking", "", "", b"{}")

    async def call(self, arguments, context):
        if context.mcp.request_state is None:
            yield InputRequired("c", (), "own")
        else:
            yield ToolResult(b"[]", arguments, meta=context.mcp.request_state.encode())


def rule(name: str, effect: str, more: str = "") -> str:
    return f'[[rules]]\nname = "{name}"\neffect = "{effect}"\n{more}\n'


@pytest.fixture
def catalog(echo, server):
    """`catalog(rules)`: a catalog with the tools `echo`, `asking`, `files__read` and `files__wait`."""

    async def made(text: str, **more):
        rules = Rules(text)
        step = PolicyStep(rules, rules, approvals=more.pop("approvals", None))
        made = Catalog([echo("echo"), Asking()], [server("files", "read", "wait")], steps=[step], visibility=rules)
        await made.start()
        return made, rules

    return made


async def call(catalog, name="echo", arguments=b"{}", principal=CI, answer=None, **more):
    """The events; `answer` makes an answer of a question's id."""
    inputs = Inputs("c")
    context = CallContext(principal, "test", inputs=inputs, **more)
    events = []
    async with asyncio.timeout(10), aclosing(catalog.call(name, arguments, context)) as stream:
        async for event in stream:
            events.append(event)
            if isinstance(event, InputRequired) and event.request_state is None and answer is not None:
                inputs.answer([answer(event.requests[0].id)])
    return events


async def test_what_no_rule_allows_is_not_there(catalog):
    made, _ = await catalog(rule("echo", "allow", 'tools = ["echo"]'))
    assert [tool.name for tool in made.list(CI)] == ["echo"]
    for name in ("files__read", "files::read", "files.read", "none"):
        with pytest.raises(NotFound) as hidden:
            await call(made, name)
        assert str(hidden.value) == f"there is no tool named {name!r}" and hidden.value.metadata == {"tool": name}
        with pytest.raises(NotFound):
            made.get(name, CI)
    assert isinstance((await call(made))[-1], ToolResult)


async def test_what_a_server_that_never_came_up_has_is_not_there_either(server):
    rules = Rules(rule("theirs", "allow", 'tenants = ["other"]\nservers = ["files"]\ntools = ["read"]'))
    down = server("files")
    made = Catalog(servers=[down], steps=[PolicyStep(rules, rules)], visibility=rules)
    await made.start()
    down.become(ServerState.UNHEALTHY, "secret reason")
    with pytest.raises(NotFound, match="there is no tool named 'files__read'"):
        made.get("files__read", CI)
    with pytest.raises(Exception, match="secret reason"):
        made.get("files__read", EVE)
    with pytest.raises(NotFound, match="there is no prompt named 'files__p'"):
        await made.fill("files__p", {}, CallContext(CI, "test"))


async def test_a_refusal_names_its_rule(catalog):
    conditions = 'arguments = {"/path" = {equals = "x"}}'
    made, rules = await catalog(
        rule("not x", "deny", f'message = "never x"\n{conditions}') + rule("rest", "allow", conditions)
    )
    with pytest.raises(PermissionDenied, match="never x") as denied:
        await call(made, arguments=b'{"path": "x"}')
    assert denied.value.reason == "POLICY_DENIED"
    assert denied.value.metadata == {"rule": "not x", "message": "never x"}
    with pytest.raises(PermissionDenied) as denied:
        await call(made, arguments=b'{"path": "y"}')
    assert denied.value.metadata == {"rule": "default"}
    assert rules.seen == [("not x", "deny"), ("default", "deny")]


async def test_what_was_judged_is_what_is_called(catalog):
    made, _ = await catalog(rule("a", "allow", 'arguments = {"/v" = {equals = "good"}}'))
    assert (await call(made, arguments=b'{"v": "bad", "v": "good"}'))[-1].structured_content == b'{"v": "good"}'
    with pytest.raises(PermissionDenied):
        await call(made, arguments=b'{"v": "good", "v": "bad"}')
    with pytest.raises(InvalidToolArguments, match="too large"):
        await call(made, arguments=b'{"v": "good", "n": 1e999}')


async def test_large_arguments_are_judged_too(catalog):
    made, _ = await catalog(rule("a", "allow", 'arguments = {"/v/*" = {max_length = 3}}'))
    arguments = {"v": ["abc"] * 900, "rest": "x" * 1_000_000}
    assert isinstance((await call(made, arguments=json.dumps(arguments).encode()))[-1], ToolResult)
    arguments["v"][-1] = "abcd"
    with pytest.raises(PermissionDenied):
        await call(made, arguments=json.dumps(arguments).encode())


async def test_a_rate_is_of_each_caller_and_outlives_a_reload(catalog):
    text = rule("slow", "allow", 'rate = "1/hour"')
    made, rules = await catalog(text)
    await call(made)
    for _ in range(2):
        with pytest.raises(ResourceExhausted) as limited:
            await call(made)
        assert limited.value.reason == "POLICY_RATE" and 3590 < limited.value.retry_after <= 3600
        rules.set(text + "# changed\n")
    await call(made, principal=EVE)
    assert ("slow", "rate") in rules.seen


async def test_only_so_many_run_at_once(catalog):
    made, rules = await catalog(rule("one", "allow", "concurrency = 1"))
    async with aclosing(made.call("files__wait", b"{}", CallContext(CI, "test"))) as running:
        await anext(running)
        with pytest.raises(ResourceExhausted) as limited:
            await call(made, "files__read")
        assert limited.value.reason == "POLICY_CONCURRENCY"
        await call(made, "files__read", principal=EVE)
    await call(made, "files__read")
    assert ("one", "concurrency") in rules.seen


async def test_a_call_that_takes_too_long_is_cancelled(catalog, server):
    made, _ = await catalog(rule("quick", "allow", "timeout = 0.05"))
    with pytest.raises(DeadlineExceeded) as late:
        await call(made, "files__wait")
    assert late.value.reason == "POLICY_TIMEOUT" and late.value.metadata == {"rule": "quick"}
    assert made.roster.get("files").cancelled.is_set()
    assert (await call(made, "files__read"))[-1].structured_content == b"files/read"


CONFIRM = rule("ask", "confirm", 'message = "It may cost money."')


async def test_a_client_that_elicits_is_asked_with_all_arguments(catalog):
    made, rules = await catalog(CONFIRM)
    events = await call(
        made,
        arguments='{"to": "a\u202eb", "n": 1}'.encode(),
        mcp=ELICITS,
        answer=lambda id: Answer(id, {"action": "accept"}),
    )
    [asked] = events[0].requests
    params = json.loads(asked.params)
    assert asked.method == "elicitation/create" and params["requestedSchema"] == {"type": "object", "properties": {}}
    assert params["message"] == 'Call the tool echo? It may cost money.\n\n{\n  "to": "a\\u202eb",\n  "n": 1\n}'
    assert json.loads(events[-1].structured_content) == {"to": "a\u202eb", "n": 1}
    assert rules.seen == [("ask", "confirm"), ("ask", "approved")]


async def test_another_caller_gets_an_approval_request(catalog):
    made, _ = await catalog(CONFIRM)
    more = {"mcp": ELICITS, "answers_approvals": True}
    events = await call(made, arguments=b'{"n":1}', answer=lambda id: Answer(id, approved=True), **more)
    [asked] = events[0].requests
    assert asked == ApprovalRequest(asked.id, "echo", b'{"n": 1}', "It may cost money.")
    with pytest.raises(PermissionDenied, match="too dear") as declined:
        await call(made, answer=lambda id: Answer(id, approved=False, reason="too dear"), **more)
    assert declined.value.reason == "APPROVAL_DECLINED" and declined.value.metadata == {"rule": "ask"}


@pytest.mark.parametrize(
    "answer", [{"result": {"action": "decline"}}, {"result": {"action": "cancel"}}, {"error": {"code": -1}}]
)
async def test_without_a_yes_nothing_is_called(catalog, answer):
    made, rules = await catalog(CONFIRM)
    with pytest.raises(PermissionDenied) as declined:
        await call(made, mcp=ELICITS, answer=lambda id: Answer(id, **answer))
    assert declined.value.reason == "APPROVAL_DECLINED"
    assert rules.seen[-1] == ("ask", "declined")


@pytest.mark.parametrize(
    ("more", "arguments"),
    [
        ({}, b"{}"),
        ({"mcp": McpContext({"elicitation": {"url": {}}})}, b"{}"),
        ({"mcp": McpContext({"elicitation": True})}, b"{}"),
        ({"mcp": McpContext({"sampling": {}})}, b"{}"),
        ({"mcp": ELICITS}, json.dumps({"a": "x" * MOST_SHOWN}).encode()),
    ],
)
async def test_who_cannot_be_asked_is_refused(catalog, more, arguments):
    made, rules = await catalog(CONFIRM)
    with pytest.raises(PermissionDenied) as refused:
        await call(made, arguments=arguments, **more)
    assert refused.value.reason == "APPROVAL_UNAVAILABLE"
    assert rules.seen[-1] == ("ask", "unavailable")


async def test_a_yes_that_comes_after_a_no_of_the_policy_counts_for_nothing(catalog):
    made, rules = await catalog(CONFIRM)

    def late(id: str) -> Answer:
        rules.set(rule("no", "deny", 'arguments = {"/n" = {equals = 1}}') + CONFIRM)
        return Answer(id, {"action": "accept"})

    with pytest.raises(PermissionDenied) as denied:
        await call(made, arguments=b'{"n": 1}', mcp=ELICITS, answer=late)
    assert denied.value.metadata == {"rule": "no"} and rules.seen[-1] == ("no", "deny")
    assert (await call(made, arguments=b'{"n": 2}', mcp=ELICITS, answer=late))[-1].structured_content == b'{"n": 2}'


async def test_nobody_waits_for_an_answer_for_ever(catalog):
    made, _ = await catalog(CONFIRM, approvals=Approvals(patience=0.01))
    with pytest.raises(PermissionDenied, match="nobody answered") as refused:
        await call(made, mcp=ELICITS)
    assert refused.value.reason == "APPROVAL_UNAVAILABLE"


async def test_a_yes_counts_for_one_call_and_its_rounds(catalog):
    made, _ = await catalog(CONFIRM)
    yes = {"answer": lambda id: Answer(id, {"action": "accept"})}
    asked, wanted = await call(made, "asking", b'{"n": 1}', mcp=ELICITS, **yes)
    assert isinstance(asked.requests[0], InputRequest) and wanted.request_state.endswith(":own")
    again = replace(ELICITS, request_state=wanted.request_state)
    [result] = await call(made, "asking", b'{"n": 1}', mcp=again)
    assert (result.structured_content, result.meta) == (b'{"n": 1}', b"own")
    for name, arguments, principal in (
        ("asking", b'{"n": 1}', CI),
        ("asking", b'{"n": 2}', CI),
        ("asking", b'{"n": 1}', EVE),
    ):
        wanted = (await call(made, "asking", b'{"n": 1}', mcp=ELICITS, **yes))[-1]
        again = replace(ELICITS, request_state=wanted.request_state)
        events = await call(made, name, arguments, principal, mcp=again, **yes)
        assert len(events) == (1 if (arguments, principal) == (b'{"n": 1}', CI) else 2)  # else it is asked anew
        assert len(await call(made, name, arguments, principal, mcp=again, **yes)) == 2
    forged = replace(ELICITS, request_state="narthex-approval:guess:own")
    assert len(await call(made, "asking", b"{}", mcp=forged, **yes)) == 2


async def test_prompts_and_resources_are_what_the_policy_shows(server):
    rules = Rules(
        rule("p", "allow", 'prompts = ["files__yes"]')
        + rule("no", "deny", 'resources = ["file:///data/no*"]')
        + rule("r", "allow", 'servers = ["files"]\nresources = ["file:///data/*"]')
    )
    files, other = server("files"), server("other")
    made = Catalog(servers=[files, other], visibility=rules)
    await made.start()
    files.prompt("yes", "no")
    files.hold(
        "file:///data/a", "file:///data/no", "file:///etc/b", templates=("file:///data/{name}", "file:///etc/{name}")
    )
    other.hold("file:///data/a", "file:///data/c")
    other.unlisted = {"file:///data/d"}
    assert [prompt.name for prompt in made.sight(CI).prompts] == ["files__yes"]
    assert [one.uri for one in made.sight(CI).resources] == ["file:///data/a"]
    assert [one.uri_template for one in made.sight(CI).templates] == ["file:///data/{name}"]
    context = CallContext(CI, "test")
    assert (await made.fill("files__yes", {}, context)).description == "files/yes {}"
    assert (await made.read("file:///data/a", "", context)).parts[0].content == "files has file:///data/a"
    for uri in (
        "file:///data/no",
        "file:///etc/b",
        "file:///data/c",
        "other+file:///data/a",
        "file:///data/d",
        "file:///data/../etc/b",
    ):
        with pytest.raises(NotFound, match="there is no resource"):
            await made.read(uri, "", context)
    with pytest.raises(NotFound):
        await made.read("file:///data/c", "other", context)
    with pytest.raises(NotFound, match="there is no prompt named 'files__no'"):
        await made.fill("files__no", {}, context)
    typed = Typed("name", "", {})
    assert (await made.complete(PromptReference("files__yes"), typed, context)).values
    assert (await made.complete(TemplateReference("file:///data/{name}"), typed, context)).values
    for reference in (PromptReference("files__no"), TemplateReference("file:///etc/{name}")):
        with pytest.raises(NotFound):
            await made.complete(reference, typed, context)
    watchable = ["file:///data/a", "file:///data/c", "file:///etc/b"]
    assert [uri for uri in watchable if made.sight(CI).places(uri)] == ["file:///data/a"]


async def test_the_lists_are_told_of_as_changed_when_other_things_are_visible(catalog):
    made, rules = await catalog("")
    version = made.versions(CI).catalog
    waiting = asyncio.create_task(made.wait_changed(CI, version))
    rules.set(rule("all", "allow"))
    made.relist()
    assert await asyncio.wait_for(waiting, 5) > version and len(made.list(CI)) == 4

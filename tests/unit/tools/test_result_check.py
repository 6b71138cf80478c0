import json
from collections.abc import AsyncGenerator

import pytest
from narthex_server.principal import LOCAL
from narthex_server.tools.result_check import LARGEST, ResultCheck
from narthex_server.tools.step import Invocation
from narthex_server.tools.tool import CallContext, Progress, Tool, ToolEvent, ToolResult

SCHEMA = b'{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}'


async def checked(action: str, result: ToolResult, schema: bytes = SCHEMA, server: str = "s"):
    """The events after the check, and the misfits that were counted."""
    misfits = []

    async def run(call: Invocation) -> AsyncGenerator[ToolEvent]:
        yield Progress(1)
        yield result

    tool = Tool("s__t", "", "", b"{}", schema, server=server)
    check = ResultCheck(action, lambda tool, server: misfits.append((tool, server)))
    events = [event async for event in check.around(Invocation(tool, b"{}", {}, CallContext(LOCAL, "test")), run)]
    assert events[0] == Progress(1)
    return events[1], misfits


BAD = [b'{"n":"1"}', b"{}", b"", b"[]", b"{", b'{"n":' + b"[" * 200_000 + b"]" * 200_000 + b"}"]


@pytest.mark.parametrize("structured", [b'{"n":1}', b'{"n":1,"text":"' + b"x" * 100_000 + b'"}'])
async def test_results_that_fit_pass(structured):
    result = ToolResult(b"[]", structured)
    for action in ("report", "refuse"):
        assert await checked(action, result) == (result, [])


@pytest.mark.parametrize("structured", BAD)
async def test_misfits_are_counted_and_passed_on(structured):
    result = ToolResult(b"[]", structured)
    assert await checked("report", result) == (result, [("s__t", "s")])


@pytest.mark.parametrize("structured", BAD)
async def test_misfits_are_errors_where_that_is_asked_for(structured):
    found, misfits = await checked("refuse", ToolResult(b"[]", structured))
    assert found.is_error and misfits == [("s__t", "s")]
    assert "does not fit the schema that the tool gives for it" in json.loads(found.content)[0]["text"]


@pytest.mark.parametrize(
    ("result", "schema", "server"),
    [
        (ToolResult(b"[]", is_error=True), SCHEMA, "s"),
        (ToolResult(b"[]", b"{}"), b"", "s"),
        (ToolResult(b"[]", b"{}"), b'{"type":"nonsense"}', "s"),
        (ToolResult(b"[]", b"{}"), b'{"$ref":"https://example.com/schema"}', "s"),
        (ToolResult(b"[]", b"{}"), SCHEMA, ""),
        (ToolResult(b"[]", b'{"n":"' + b"x" * LARGEST + b'"}'), SCHEMA, "s"),
    ],
    ids=["error", "no schema", "broken schema", "schema of elsewhere", "native", "too large"],
)
async def test_what_cannot_be_judged_passes(result, schema, server):
    assert await checked("refuse", result, schema, server) == (result, [])


async def test_a_misfit_is_logged_once(caplog):
    check = ResultCheck("report")

    async def run(call: Invocation) -> AsyncGenerator[ToolEvent]:
        yield ToolResult(b"[]", b"{}")

    call = Invocation(Tool("s__t", "", "", b"{}", SCHEMA, server="s"), b"{}", {}, CallContext(LOCAL, "test"))
    for _ in range(3):
        assert [event async for event in check.around(call, run)]
    assert len(caplog.records) == 1

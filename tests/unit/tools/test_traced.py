from contextlib import contextmanager

import pytest
from narthex.tracing.context import TRACE, TraceContext
from narthex_server.errors import Unavailable
from narthex_server.principal import LOCAL
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.tool import CallContext, Tool, ToolResult
from narthex_server.tools.traced import Traced

PARENT = TraceContext("ab" * 16, "cd" * 8, 1)
OK = ToolResult(b"[]")
BELOW = TraceContext("ab" * 16, "ef" * 8, 1)


class Kept:
    """A tracer that keeps its only span, and the span."""

    context = BELOW

    @contextmanager
    def span(self, name, kind, parent, attributes):
        self.name, self.kind, self.parent, self.attributes, self.failed = name, kind, parent, dict(attributes), ""
        try:
            yield self
        except Exception as error:
            self.fail(error.reason)
            raise

    def note(self, name, value):
        self.attributes[name] = value

    def fail(self, kind):
        self.failed = kind

    def close(self): ...


class Native:
    """A tool that keeps what it is told, and answers, or raises, what it is given."""

    tool = Tool("one", "", "", b"{}")

    def __init__(self, answer):
        self._answer = answer

    async def call(self, arguments, context):
        self.meta = context.mcp.meta
        if isinstance(self._answer, Exception):
            raise self._answer
        yield self._answer


class Noted:
    """A step that notes what a policy and a cache would."""

    async def around(self, call, run):
        call.trail.rule, call.trail.cached = "reads", True
        async for event in run(call):
            yield event


@pytest.fixture
def called():
    async def call(answer=OK, shown=None):
        TRACE.set(PARENT)
        kept, native = Kept(), Native(answer)
        catalog = Catalog([native], steps=[Traced(kept, shown), Noted()])
        try:
            async for _ in catalog.call("one", b'{"a":1}', CallContext(LOCAL, "r1")):
                pass
        except Unavailable:
            pass
        return kept, native

    return call


async def test_a_native_tool_is_a_function_that_is_told_the_span_it_is_in(called):
    kept, native = await called()
    assert (kept.name, kept.kind, kept.parent, kept.failed) == ("execute_tool one", "internal", PARENT, "")
    assert kept.attributes == {
        "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "one", "gen_ai.tool.type": "function",
        "narthex.policy.rule": "reads", "narthex.cached": True,
    }  # fmt: skip
    assert native.meta == {"traceparent": BELOW.traceparent}


async def test_arguments_are_in_the_span_where_that_is_wanted(called):
    kept, _ = await called(shown=lambda arguments: f"{len(arguments)} of them")
    assert kept.attributes["gen_ai.tool.call.arguments"] == "1 of them"


async def test_a_result_that_says_it_is_an_error_and_an_error_fail_the_span(called):
    assert (await called(ToolResult(b"[]", is_error=True)))[0].failed == "tool_error"
    kept, _ = await called(Unavailable("Not now.", reason="GONE"))
    assert (kept.failed, kept.attributes["narthex.policy.rule"]) == ("GONE", "reads")

import asyncio

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError
from narthex_server.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidToolArguments,
    Unavailable,
    UpstreamRefused,
)
from narthex_server.principal import LOCAL
from narthex_server.tools.server import BreakerState
from narthex_server.tools.tool import CallContext, ToolResult
from narthex_server.tools.upstream.breaker import Breaker, BreakerSettings
from narthex_server.tools.upstream.guard import Guard

INTERNAL = UpstreamRefused("broke", metadata={"jsonrpc_code": "-32603"})
REFUSED = UpstreamRefused("no", metadata={"jsonrpc_code": "-32000"})
LOST = MCPError(types.CONNECTION_CLOSED, "connection closed")


@pytest.fixture
def guard() -> Guard:
    """One whose breaker opens at the first failure."""
    return Guard("one", Breaker(BreakerSettings(failures=1)))


def fail(guard: Guard, error: BaseException, context: CallContext, connection: int = 1) -> BreakerState:
    with pytest.raises(type(error)), guard.around(connection, context):
        raise error
    return guard.breaker.state


@pytest.mark.parametrize("error", [LOST, DeadlineExceeded("late"), Unavailable("not a result"), INTERNAL])
async def test_what_is_the_upstreams_fault_counts(guard, context, error):
    assert fail(guard, error, context) is BreakerState.OPEN
    with pytest.raises(Unavailable) as caught, guard.around(1, context):
        pass
    assert caught.value.reason == "UPSTREAM_BREAKER_OPEN"
    assert caught.value.metadata["upstream"] == "one"
    assert 0 < int(caught.value.metadata["retry_after_ms"]) <= 10_000


@pytest.mark.parametrize(
    "error",
    [InvalidToolArguments("no"), FailedPrecondition("no"), REFUSED, asyncio.CancelledError(), GeneratorExit()],
)
async def test_what_is_the_callers_does_not(guard, context, error):
    assert fail(guard, error, context) is BreakerState.CLOSED


async def test_a_deadline_that_was_the_callers_own_does_not(guard):
    hurried = CallContext(LOCAL, "test", deadline=asyncio.get_running_loop().time())
    assert fail(guard, DeadlineExceeded("late"), hurried) is BreakerState.CLOSED


async def test_a_tools_own_error_is_no_failure_and_an_internal_one_is(guard, context):
    with guard.around(1, context) as passage:
        passage.saw(ToolResult(b"[]", is_error=True))
    assert guard.breaker.state is BreakerState.CLOSED
    with guard.around(1, context) as passage:
        passage.saw(ToolResult(b"[]", is_error=True, faulted=True))
    assert guard.breaker.state is BreakerState.OPEN


async def test_a_caller_who_leaves_with_the_result_had_a_success(guard, context):
    with pytest.raises(GeneratorExit), guard.around(1, context) as passage:
        passage.saw(ToolResult(b"[]"))
        raise GeneratorExit
    assert guard.last_success > 0
    with pytest.raises(GeneratorExit), guard.around(1, context) as passage:
        passage.saw(ToolResult(b"[]", is_error=True, faulted=True))
        raise GeneratorExit
    assert guard.breaker.state is BreakerState.OPEN


async def test_a_lost_connection_counts_once_for_all_its_calls(context):
    guard = Guard("one", Breaker(BreakerSettings(failures=2)))
    assert [fail(guard, LOST, context, connection=1) for _ in range(5)][-1] is BreakerState.CLOSED
    assert fail(guard, LOST, context, connection=2) is BreakerState.OPEN


async def test_without_a_breaker_every_call_is_tried(context):
    guard = Guard("one", None)
    for _ in range(20):
        with pytest.raises(Unavailable), guard.around(1, context):
            raise Unavailable("not a result")


async def test_it_is_idle_when_no_call_runs(guard, context):
    await guard.idle()
    with guard.around(1, context), guard.around(1, context):
        waiting = asyncio.create_task(guard.idle())
        await asyncio.sleep(0)
        assert not waiting.done() and guard.busy
    await waiting


async def test_a_server_whose_calls_run_out_of_time_is_not_busy_but_stuck(context):
    now = 0.0
    guard = Guard("one", None, lambda: now)
    with guard.around(1, context):
        now = 1.0
        assert guard.busy
        with pytest.raises(DeadlineExceeded), guard.around(1, context):
            raise DeadlineExceeded("late")
        assert not guard.busy
    now = 2.0
    with guard.around(1, context):
        assert guard.busy

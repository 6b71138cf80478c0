"""Every error ends a call with its code and its details; an unknown one shows only an id."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from narthex.v1 import common_pb2
from narthex_server import errors
from narthex_server.interceptors.errors import CODES, ErrorInterceptor, code, status

REQUEST = health_pb2.HealthCheckRequest()
REPLY = health_pb2.HealthCheckResponse()


class Failing(health_pb2_grpc.HealthServicer):
    """Raises what `make` makes: at once in Check, after two messages in Watch."""

    def __init__(self, make: Callable[[], Exception]) -> None:
        self.make = make
        self.closed = asyncio.Event()

    async def Check(self, request, context):
        raise self.make()

    async def Watch(self, request, context):
        try:
            yield REPLY
            yield REPLY
            raise self.make()
        finally:
            self.closed.set()


def rich(error: grpc.aio.AioRpcError) -> Status:
    data = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    return Status.FromString(data)


def detail(found: Status, kind: type) -> object:
    message = kind()
    assert any(part.Unpack(message) for part in found.details), f"no {kind.__name__} in {found}"
    return message


async def failure(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def drained(stream: AsyncIterator) -> int:
    count = 0
    async for _ in stream:
        count += 1
    return count


def test_every_class_of_the_tree_has_a_code():
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    found = {kind: code(kind("x")) for kind in classes}
    assert found.pop(errors.NarthexError) is grpc.StatusCode.INTERNAL
    assert all(any(base in CODES for base in kind.__mro__) for kind in found)
    assert found[errors.ContextOverflow] is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_typed_error_carries_reason_metadata_and_violations(serve):
    error = errors.InvalidRequest(
        "temperature must be a number",
        metadata={"model": "demo"},
        violations=[errors.Violation("sampling.temperature", "is NaN; give 0 or more")],
    )
    stub = await serve(Failing(lambda: error), [ErrorInterceptor()])
    caught = await failure(stub.Check(REQUEST))
    assert caught.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.details() == "temperature must be a number"
    info = detail(rich(caught), error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain, dict(info.metadata)) == ("INVALID_REQUEST", "narthex", {"model": "demo"})
    violations = detail(rich(caught), error_details_pb2.BadRequest).field_violations
    assert [(v.field, v.description) for v in violations] == [("sampling.temperature", "is NaN; give 0 or more")]


async def test_a_limit_says_when_to_try_again(serve):
    stub = await serve(Failing(lambda: errors.ResourceExhausted("busy")), [ErrorInterceptor()])
    caught = await failure(stub.Check(REQUEST))
    assert detail(rich(caught), error_details_pb2.RetryInfo).retry_delay.seconds > 0


async def test_an_error_that_knows_when_to_try_again_says_so():
    found = status(errors.Unavailable("broken", retry_after=2.5))
    assert detail(found, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() == 2500


async def test_an_unknown_error_shows_only_an_id_that_the_log_has_too(serve, caplog):
    stub = await serve(Failing(lambda: ValueError("secret path")), [ErrorInterceptor()])
    with caplog.at_level(logging.ERROR):
        caught = await failure(stub.Check(REQUEST))
    assert caught.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (caught.details() or "")
    error_id = detail(rich(caught), error_details_pb2.ErrorInfo).metadata["error_id"]
    assert error_id in (caught.details() or "")
    assert error_id in caplog.text and "secret path" in caplog.text


async def test_our_own_internal_error_is_concealed_as_well(serve):
    stub = await serve(Failing(lambda: errors.InternalError("rows out of range")), [ErrorInterceptor()])
    caught = await failure(stub.Check(REQUEST))
    assert caught.code() is grpc.StatusCode.INTERNAL and "rows" not in (caught.details() or "")


async def test_a_stream_that_fails_midway_delivers_what_came_before(serve):
    servicer = Failing(lambda: errors.Unavailable("draining"))
    stub = await serve(servicer, [ErrorInterceptor()])
    stream = stub.Watch(REQUEST)
    assert [await stream.read(), await stream.read()] == [REPLY, REPLY]
    caught = await failure(stream.read())
    assert caught.code() is grpc.StatusCode.UNAVAILABLE
    await asyncio.wait_for(servicer.closed.wait(), 5)


async def test_an_abort_of_the_handler_keeps_its_code(serve):
    class Aborting(health_pb2_grpc.HealthServicer):
        async def Check(self, request, context):
            await context.abort(grpc.StatusCode.DATA_LOSS, "as it was")

    stub = await serve(Aborting(), [ErrorInterceptor()])
    caught = await failure(stub.Check(REQUEST))
    assert (caught.code(), caught.details()) == (grpc.StatusCode.DATA_LOSS, "as it was")


async def test_a_caller_that_leaves_closes_the_handler_at_once(serve):
    class Endless(Failing):
        async def Watch(self, request, context):
            try:
                yield REPLY
                await asyncio.Event().wait()
            finally:
                self.closed.set()

    servicer = Endless(ValueError)
    stub = await serve(servicer, [ErrorInterceptor()])
    stream = stub.Watch(REQUEST)
    await stream.read()
    stream.cancel()
    await asyncio.wait_for(servicer.closed.wait(), 5)


async def test_a_very_long_message_still_fits_the_headers(serve):
    error = errors.InvalidRequest("é" * 50_000, violations=[errors.Violation("a", "é" * 9000)] * 40)
    assert status(error).ByteSize() < 4096
    stub = await serve(Failing(lambda: error), [ErrorInterceptor()])
    assert (await failure(stub.Check(REQUEST))).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_overflow_says_how_much_there_is(serve):
    metadata = {"prompt_tokens": "90", "max_tokens": "20", "context": "100"}
    stub = await serve(Failing(lambda: errors.ContextOverflow("too long", metadata=metadata)), [ErrorInterceptor()])
    caught = await failure(stub.Check(REQUEST))
    limit = detail(rich(caught), common_pb2.LimitExceeded)
    assert (limit.limit, limit.requested, limit.maximum) == ("max_context", 110, 100)

"""The one table from our errors to gRPC status codes, and the interceptor that applies it."""

import logging
import math
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType, TracebackType
from typing import Any
from uuid import uuid4

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc import StatusCode
from grpc.aio import AbortError, ServicerContext
from grpc_status.rpc_status import to_status
from narthex.v1.common_pb2 import LimitExceeded

from narthex_server import errors
from narthex_server.errors import NarthexError
from narthex_server.interceptors.around import AroundInterceptor, Traffic
from narthex_server.lot.refusals import TOO_LARGE
from narthex_server.principal import REQUEST_ID

DOMAIN = "narthex"
CODES: Mapping[type[NarthexError], StatusCode] = MappingProxyType(
    {
        errors.InvalidRequest: StatusCode.INVALID_ARGUMENT,
        errors.NotFound: StatusCode.NOT_FOUND,
        errors.AlreadyExists: StatusCode.ALREADY_EXISTS,
        errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
        errors.PermissionDenied: StatusCode.PERMISSION_DENIED,
        errors.FailedPrecondition: StatusCode.FAILED_PRECONDITION,
        errors.ResourceExhausted: StatusCode.RESOURCE_EXHAUSTED,
        errors.OutOfRange: StatusCode.OUT_OF_RANGE,
        errors.Unavailable: StatusCode.UNAVAILABLE,
        errors.DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
        errors.Cancelled: StatusCode.CANCELLED,
        errors.Unimplemented: StatusCode.UNIMPLEMENTED,
        errors.InternalError: StatusCode.INTERNAL,
    }
)
RETRIED = (errors.ResourceExhausted, errors.Unavailable)
RETRY_S = 1.0
"""When to try again where nothing is known about it."""

# A status travels in the headers, twice, and a gRPC peer takes 8 KiB of them.
MESSAGE_BYTES = 1000
VIOLATIONS = 8
DESCRIPTION_BYTES = 200

log = logging.getLogger(__name__)


def code(error: NarthexError) -> StatusCode:
    """The status code of an error: that of the nearest class in the table."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), StatusCode.INTERNAL)


def status(error: NarthexError) -> Status:
    """The error as google.rpc.Status: ErrorInfo always, BadRequest and RetryInfo where they apply."""
    metadata = {key: _short(value, DESCRIPTION_BYTES) for key, value in error.metadata.items()}
    details: list[Message] = [ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if error.violations:
        violations = [
            BadRequest.FieldViolation(field=v.field, description=_short(v.description, DESCRIPTION_BYTES))
            for v in error.violations[:VIOLATIONS]
        ]
        details.append(BadRequest(field_violations=violations))
    if isinstance(error, errors.ContextOverflow):
        details.append(_context(error.metadata))
    if error.reason == TOO_LARGE:
        details.append(_limit(error.metadata))
    if isinstance(error, RETRIED) and error.reason != TOO_LARGE:  # which will be as large the next time
        details.append(RetryInfo(retry_delay=_delay(error.retry_after)))
    message = _short(error.message, MESSAGE_BYTES)
    return Status(code=code(error).value[0], message=message, details=[_packed(detail) for detail in details])


def visible(error: Exception) -> NarthexError:
    """What the caller may see of an error: a typed one as it is, of any other only an id that the log carries too."""
    if isinstance(error, NarthexError) and not isinstance(error, errors.InternalError):
        return error
    error_id = uuid4().hex[:12]
    log.error("internal error %s, request=%s", error_id, REQUEST_ID.get(), exc_info=error)
    return errors.InternalError(
        f"Internal error {error_id}; the server's log has the details under this id.", metadata={"error_id": error_id}
    )


class ErrorInterceptor(AroundInterceptor):
    """Ends a failed call with the status of its error; nothing but typed errors shows its own text."""

    def around(
        self, method: str, context: ServicerContext[Any, Any], traffic: Traffic
    ) -> AbstractAsyncContextManager[None]:
        return _Ending(context)


class _Ending(AbstractAsyncContextManager[None]):
    def __init__(self, context: ServicerContext[Any, Any]) -> None:
        self._context = context

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, AbortError):
            end = to_status(status(visible(error)))
            await self._context.abort(end.code, end.details, end.trailing_metadata)


def _limit(metadata: Mapping[str, str]) -> LimitExceeded:
    requested, maximum = (int(metadata.get(name, 0)) for name in ("requested", "maximum"))
    return LimitExceeded(limit=metadata.get("limit", ""), requested=requested, maximum=maximum)


def _context(metadata: Mapping[str, str]) -> LimitExceeded:
    asked = int(metadata.get("prompt_tokens", 0)) + int(metadata.get("max_tokens", 0))
    return LimitExceeded(limit="max_context", requested=asked, maximum=int(metadata.get("context", 0)))


def _delay(seconds: float | None) -> Duration:
    delay = Duration()
    delay.FromMilliseconds(math.ceil(1000 * (RETRY_S if seconds is None else seconds)))
    return delay


def _packed(detail: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _short(text: str, limit: int) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= limit else data[: limit - 3].decode(errors="ignore") + "…"

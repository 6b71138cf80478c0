"""Failed calls of another narthex, as errors of ours of the same kind."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError

from narthex_server import errors
from narthex_server.errors import NarthexError, Violation
from narthex_server.tools.upstream.tokens import REQUIRED

DOMAIN = "narthex"
_DETAILS = "grpc-status-details-bin"

_KINDS: Mapping[StatusCode, type[NarthexError]] = MappingProxyType(
    {
        StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
        StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
        StatusCode.NOT_FOUND: errors.NotFound,
        StatusCode.ALREADY_EXISTS: errors.AlreadyExists,
        StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
        StatusCode.FAILED_PRECONDITION: errors.FailedPrecondition,
        StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
        StatusCode.UNAVAILABLE: errors.Unavailable,
        StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
        StatusCode.CANCELLED: errors.Cancelled,
        StatusCode.UNIMPLEMENTED: errors.Unimplemented,
    }
)
_BY_REASON: Mapping[str, type[NarthexError]] = MappingProxyType(
    {
        "INVALID_TOOL_ARGUMENTS": errors.InvalidToolArguments,
        "UPSTREAM_REFUSED": errors.UpstreamRefused,
        REQUIRED: errors.Unauthenticated,
    }
)


def failure(error: AioRpcError, upstream: str, hide: Callable[[str], str] = str) -> NarthexError:
    """Only what a narthex marks as its own text is repeated: others, of proxies and connections, tell of machines."""
    code = error.code()
    info, violations = _details(error)
    metadata = {**info.metadata, "upstream": upstream}
    if info.domain != DOMAIN:
        return _undetailed(code, metadata, upstream)
    kind = _BY_REASON.get(info.reason) or _KINDS.get(code)
    message = hide(error.details() or "")
    if kind is None and code is StatusCode.UNAUTHENTICATED:  # it is our key that is not taken, and not the caller's
        return errors.Unavailable(
            f"upstream {upstream!r} does not take our key: {message}", reason="UPSTREAM_REFUSED_KEY", metadata=metadata
        )
    if kind is None:
        return errors.UpstreamRefused(f"upstream {upstream!r} failed: {message}", metadata=metadata)
    return kind(message, reason=info.reason or None, metadata=metadata, violations=violations)


def _undetailed(code: StatusCode, metadata: Mapping[str, str], upstream: str) -> NarthexError:
    match code:
        case StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineExceeded(
                f"upstream {upstream!r} did not answer in time", reason="UPSTREAM_DEADLINE_EXCEEDED", metadata=metadata
            )
        case StatusCode.RESOURCE_EXHAUSTED:
            return errors.ResourceExhausted(
                f"upstream {upstream!r} has too much to do, or a message is too large", metadata=metadata
            )
        case StatusCode.CANCELLED:
            return errors.Cancelled(f"upstream {upstream!r} cancelled the call", metadata=metadata)
        case _:
            return errors.Unavailable(
                f"upstream {upstream!r} cannot be reached ({code.name})",
                reason="UPSTREAM_UNAVAILABLE",
                metadata=metadata,
            )


def _details(error: AioRpcError) -> tuple[error_details_pb2.ErrorInfo, tuple[Violation, ...]]:
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            try:
                for detail in status_pb2.Status.FromString(value).details:
                    if not detail.Unpack(info):
                        detail.Unpack(bad)
            except DecodeError:
                break
    return info, tuple(Violation(one.field, one.description) for one in bad.field_violations)

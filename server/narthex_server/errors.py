"""Every error that may reach a caller.

NarthexError
├── InvalidRequest            the caller must change the request
│   ├── ContextOverflow       prompt and max_tokens do not fit the model's context
│   ├── InvalidToolArguments  arguments do not fit the tool's JSON Schema
│   └── InvalidModelFile      a model file or folder is broken, truncated or not supported
├── NotFound                  the named model, tool, upstream or request does not exist
├── AlreadyExists             the name is taken
├── Unauthenticated           no credential, or one that is not known
├── PermissionDenied          the credential does not allow this
├── FailedPrecondition        right request, wrong state; nothing to change in the request itself
│   ├── NotOnDevice           the device is missing, or cannot run this model in this way
│   └── UpstreamRefused       an upstream answered with an error of its own, which the message repeats
├── ResourceExhausted         a limit is reached; retry later
├── Unavailable               temporarily impossible: draining, or an upstream is down; retry later
├── OutOfRange                what is asked for is no longer kept
├── DeadlineExceeded          the call's or the upstream's time is over
├── Cancelled                 the caller, or Abort, ended the work
├── Unimplemented             the contract has it, this server does not yet
└── InternalError             our fault; the text names only an error id, the log has the rest

Each carries a `reason` (UPPER_SNAKE, stable, machine-readable), a message for people, and `metadata`; `violations` name
the fields at fault. The one table from these classes to gRPC status codes is in interceptors/errors.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

NO_METADATA: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Violation:
    """One field at fault: `field` is its path (`sampling.temperature`), `description` what is wrong and what fits."""

    field: str
    description: str


class NarthexError(Exception):
    """The root; `reason` defaults to the class's own, `retry_after` is in seconds where it is known."""

    reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        metadata: Mapping[str, str] = NO_METADATA,
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.metadata = metadata
        self.violations = tuple(violations)
        self.retry_after = retry_after


class InvalidRequest(NarthexError):
    reason = "INVALID_REQUEST"


def invalid(*violations: Violation) -> InvalidRequest:
    """The InvalidRequest that names these fields."""
    return InvalidRequest("; ".join(f"{one.field} {one.description}" for one in violations), violations=violations)


class ContextOverflow(InvalidRequest):
    reason = "CONTEXT_OVERFLOW"


class InvalidToolArguments(InvalidRequest):
    reason = "INVALID_TOOL_ARGUMENTS"


class InvalidModelFile(InvalidRequest):
    reason = "INVALID_MODEL_FILE"


class NotFound(NarthexError):
    reason = "NOT_FOUND"


class AlreadyExists(NarthexError):
    reason = "ALREADY_EXISTS"


class Unauthenticated(NarthexError):
    reason = "UNAUTHENTICATED"


class PermissionDenied(NarthexError):
    reason = "PERMISSION_DENIED"


class FailedPrecondition(NarthexError):
    reason = "FAILED_PRECONDITION"


class NotOnDevice(FailedPrecondition):
    reason = "NOT_ON_DEVICE"


class UpstreamRefused(FailedPrecondition):
    reason = "UPSTREAM_REFUSED"


class ResourceExhausted(NarthexError):
    reason = "RESOURCE_EXHAUSTED"


class Unavailable(NarthexError):
    reason = "UNAVAILABLE"


class OutOfRange(NarthexError):
    reason = "OUT_OF_RANGE"


class DeadlineExceeded(NarthexError):
    reason = "DEADLINE_EXCEEDED"


class Cancelled(NarthexError):
    reason = "CANCELLED"


class Unimplemented(NarthexError):
    reason = "UNIMPLEMENTED"


class InternalError(NarthexError):
    reason = "INTERNAL"

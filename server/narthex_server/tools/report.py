"""What is told of a call, a read, a prompt or a completion when it is over, and to whom."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from narthex_server.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidRequest,
    NarthexError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    UpstreamRefused,
)
from narthex_server.tools.step import Trail
from narthex_server.tools.tool import CallContext

Outcome = Literal[
    "ok", "tool_error", "input_required", "invalid", "denied", "not_found", "exhausted", "unavailable", "deadline",
    "cancelled", "error",
]  # fmt: skip

Kind = Literal["tool", "resource", "prompt", "completion"]
"""What was asked for."""


@dataclass(frozen=True, slots=True)
class CallReport:
    """One request that is over, however it ended.

    `asked` is the name or URI as the caller gave it; `name` and `server` are the catalog's, empty for what it does not
    have. `arguments` are as they came: JSON for tools, texts by name for the rest. `seconds` is how long it took,
    `sent` the bytes of its result, `reason` that of the error that ended it.
    """

    kind: Kind
    asked: str
    name: str
    server: str
    arguments: bytes | Mapping[str, str]
    context: CallContext
    trail: Trail
    seconds: float
    outcome: Outcome
    reason: str = ""
    sent: int = 0

    @property
    def received(self) -> int:
        """How large its arguments are: bytes of JSON, characters of texts."""
        if isinstance(self.arguments, bytes):
            return len(self.arguments)
        return sum(len(name) + len(value) for name, value in self.arguments.items())


class CatalogObserver(Protocol):
    """Told of everything that was asked for when it is over."""

    def on_call(self, report: CallReport) -> None: ...


class Admission(Protocol):
    """Asked before anything runs."""

    def enter(self) -> None:
        """Raises Unavailable where nothing may run now; whoever is asked is told the end by `on_call` all the same."""


def outcome_of(error: Exception) -> Outcome:
    """How a call ended that raised this."""
    match error:
        case UpstreamRefused():
            return "error"
        case InvalidRequest() | FailedPrecondition():
            return "invalid"
        case PermissionDenied() | Unauthenticated():
            return "denied"
        case NotFound():
            return "not_found"
        case ResourceExhausted():
            return "exhausted"
        case Unavailable():
            return "unavailable"
        case DeadlineExceeded():
            return "deadline"
        case Cancelled():
            return "cancelled"
        case _:
            return "error"


def reason_of(error: Exception) -> str:
    """As ErrorInfo.reason."""
    return error.reason if isinstance(error, NarthexError) else "INTERNAL"

"""Why a request gets no answer, before a face puts it into its own words."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, Protocol, get_args

from narthex_bridge.http.messages import HttpResponse
from narthex_bridge.protocol.failures import BackendError

Header = tuple[str, str]
Headers = tuple[Header, ...]
Reason = Literal[
    "host", "origin", "credential", "scope", "issuer",
    "total_rate", "address_rate", "principal_rate", "body_size", "body_time",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)

# A wrong state is the request's fault as far as its sender can tell, and nothing that a retry mends; a credential that
# the server does not accept is the bridge's own.
_STATUSES: Mapping[str, int] = MappingProxyType(
    {
        "INVALID_ARGUMENT": 400, "OUT_OF_RANGE": 400, "FAILED_PRECONDITION": 400, "PERMISSION_DENIED": 403,
        "NOT_FOUND": 404, "ABORTED": 409, "ALREADY_EXISTS": 409, "CANCELLED": 409, "RESOURCE_EXHAUSTED": 429,
        "UNIMPLEMENTED": 501, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504,
    }
)  # fmt: skip
_RETRIED = (429, 503)


class Refusal(Exception):
    """An HTTP status and a text for people; `param` names the field at fault, `reason` (UPPER_SNAKE) tells programs."""

    def __init__(self, status: int, text: str, headers: Headers = (), *, param: str = "", reason: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers
        self.param = param
        self.reason = reason

    def telling(self, headers: Headers) -> "Refusal":
        """The same with more headers."""
        return Refusal(self.status, self.text, (*self.headers, *headers), param=self.param, reason=self.reason)

    @classmethod
    def of(cls, failure: BackendError) -> "Refusal":
        """A failure of the server; `param` is the contract's path of the first field at fault."""
        status = 413 if failure.hopeless else _STATUSES.get(failure.status, 500)
        param = next((violation.field for violation in failure.violations if violation.field), "")
        headers: Headers = ()
        if status in _RETRIED:
            headers = (("retry-after", str(max(math.ceil(failure.retry_after or 0), 1))),)
        return cls(status, failure.message, headers, param=param, reason=failure.reason)


class Refused(Exception):
    """A request may not pass; `refusal` is what its sender is told, and holds nothing that it sent."""

    def __init__(self, reason: Reason, refusal: Refusal) -> None:
        super().__init__(reason)
        self.reason = reason
        self.refusal = refusal


def needs_input() -> Refusal:
    """Of a tool that asks for more while it runs on the server."""
    text = "A tool asks its caller for input, which this connection cannot give; call it over gRPC."
    return Refusal(400, text, reason="INPUT_REQUIRED")


class Face(Protocol):
    """How a family of routes words its refusals."""

    def refuse(self, refusal: Refusal) -> HttpResponse: ...

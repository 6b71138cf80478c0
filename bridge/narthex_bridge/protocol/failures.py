"""Failures of the server, and the one table that turns them into JSON-RPC errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orjson import Fragment

from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.eras import LATEST_SESSION, Era
from narthex_bridge.protocol.jsonrpc import RpcError


class BackendError(Exception):
    """The server refused or failed a call; `status` is the gRPC code's name and `message` is fit for clients.

    `retry_after`: seconds after which another attempt may succeed, where the server knows.
    """

    def __init__(
        self,
        status: str,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence["Violation"] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason or status
        self.metadata = metadata or {}
        self.violations = tuple(violations)
        self.retry_after = retry_after

    @property
    def hopeless(self) -> bool:
        """Whether the same request will never be served, though its status is one of those that pass."""
        return self.reason == "TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Violation:
    """One field at fault and what is wrong with it."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class Treatment:
    """How a status reaches clients: its JSON-RPC code, the text if the server gave none, if a retry can help."""

    code: int
    text: str
    retryable: bool = False


# Codes of our own are outside the range that JSON-RPC and MCP reserve, and read like their HTTP cousins.
_INTERNAL = Treatment(jsonrpc.INTERNAL_ERROR, "The server failed to do this.")
_TABLE = {
    "INVALID_ARGUMENT": Treatment(jsonrpc.INVALID_PARAMS, "The request is not valid."),
    "OUT_OF_RANGE": Treatment(jsonrpc.INVALID_PARAMS, "A value is out of range."),
    "NOT_FOUND": Treatment(jsonrpc.INVALID_PARAMS, "There is no such tool."),
    "UNAUTHENTICATED": Treatment(401, "The server does not accept the bridge's credential."),
    "PERMISSION_DENIED": Treatment(403, "The credential does not allow this."),
    "FAILED_PRECONDITION": Treatment(409, "The server is not in a state to do this."),
    "ABORTED": Treatment(409, "The server ended the call.", retryable=True),
    "RESOURCE_EXHAUSTED": Treatment(429, "A limit is reached.", retryable=True),
    "UNIMPLEMENTED": Treatment(501, "The server cannot do this."),
    "UNAVAILABLE": Treatment(503, "The narthex server cannot be reached; `narthex serve` starts one.", retryable=True),
    "DEADLINE_EXCEEDED": Treatment(504, "The call took longer than it may."),
    "CANCELLED": Treatment(jsonrpc.REQUEST_CANCELLED, "The call was cancelled."),
}

INVALID_TOOL_ARGUMENTS = "INVALID_TOOL_ARGUMENTS"


def default_text(status: str) -> str:
    """What clients read where the server's own text may not be shown."""
    return _TABLE.get(status, _INTERNAL).text


def rpc_error(failure: BackendError, request_id: str, era: Era = LATEST_SESSION) -> RpcError:
    """The JSON-RPC error of a failure; `request_id` is the x-request-id that the logs know."""
    match failure.reason:
        case "MISSING_CLIENT_CAPABILITY":
            needed = Fragment(failure.metadata.get("required_capabilities", "{}"))
            return RpcError(jsonrpc.MISSING_CAPABILITY, failure.message, {"requiredCapabilities": needed})
        case "RESOURCE_NOT_FOUND":
            return RpcError(era.missing_resource, failure.message, {"uri": failure.metadata.get("uri", "")})
    treatment = _TABLE.get(failure.status, _INTERNAL)
    retryable = treatment.retryable and not failure.hopeless
    data: dict[str, object] = {"reason": failure.reason, "retryable": retryable, "requestId": request_id}
    if failure.metadata:
        data["metadata"] = dict(failure.metadata)
    if failure.violations:
        data["violations"] = [{"field": v.field, "description": v.description} for v in failure.violations]
    return RpcError(treatment.code, failure.message, data)


def explanation(failure: BackendError) -> str:
    """The failure as one text for a model: the message, and every field at fault that the message does not name."""
    told = (f"{v.field}: {v.description}" if v.field else v.description for v in failure.violations)
    # A violation counts as told only as whole words: "a: ..." is not told by "extra: ...".
    return "\n".join([failure.message, *(text for text in told if f" {text}" not in f" {failure.message}")])

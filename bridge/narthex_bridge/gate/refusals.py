"""How a request is turned away."""

from typing import Literal, get_args

from narthex_bridge.http import HttpResponse
from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.jsonrpc import RpcError

Header = tuple[str, str]
Reason = Literal[
    "host", "origin", "credential", "scope", "issuer",
    "total_rate", "address_rate", "principal_rate", "body_size", "body_time",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)


class Refused(Exception):
    """A request may not pass; `answer` is what its sender gets, and holds nothing that it sent."""

    def __init__(self, reason: Reason, answer: HttpResponse) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answer = answer


def refusal(
    status: int, text: str, headers: tuple[Header, ...] = (), code: int = 0, data: dict[str, object] | None = None
) -> HttpResponse:
    """An HTTP error whose body is a JSON-RPC error without an id."""
    error = RpcError(code or jsonrpc.INVALID_REQUEST, text, data)
    return HttpResponse(status, jsonrpc.error(None, error), headers=headers)

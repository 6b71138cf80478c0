"""How the Messages API words its refusals."""

from collections.abc import Mapping
from types import MappingProxyType

import orjson

from narthex_bridge.http.messages import HttpResponse
from narthex_bridge.http.refusal import Refusal

OVERLOADED = 529
_TYPES: Mapping[int, str] = MappingProxyType(
    {
        400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
        405: "invalid_request_error", 409: "conflict_error", 413: "request_too_large", 429: "rate_limit_error",
        504: "timeout_error", OVERLOADED: "overloaded_error",
    }
)  # fmt: skip


class AnthropicFace:
    """Errors with a `type` of Anthropic's; what is down or shutting down is 529, as there."""

    def refuse(self, refusal: Refusal, request_id: str = "") -> HttpResponse:
        headers = (*refusal.headers, *id_header(request_id))
        return HttpResponse(_status(refusal), error(refusal, request_id), headers=headers)


def error(refusal: Refusal, request_id: str) -> bytes:
    """The body of a refusal, also of the event `error`."""
    kind = _TYPES.get(_status(refusal), "api_error")
    body = {"type": "error", "error": {"type": kind, "message": refusal.text}, "request_id": request_id or None}
    return orjson.dumps(body)


def id_header(request_id: str) -> tuple[tuple[str, str], ...]:
    """Where the API's clients look for the request's id."""
    return (("request-id", request_id),) if request_id else ()


def _status(refusal: Refusal) -> int:
    return OVERLOADED if refusal.status == 503 else refusal.status

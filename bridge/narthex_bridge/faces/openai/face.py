"""OpenAI's words for a refusal."""

from collections.abc import Mapping
from types import MappingProxyType

import orjson

from narthex_bridge.http.messages import HttpResponse
from narthex_bridge.http.refusal import Refusal

_TYPES = {
    401: "authentication_error", 403: "permission_error", 409: "conflict_error",
    429: "rate_limit_error", 500: "server_error", 501: "server_error", 503: "server_error", 504: "server_error",
}  # fmt: skip
_CODES = {"CONTEXT_OVERFLOW": "context_length_exceeded", "MODEL_NOT_FOUND": "model_not_found"}
_STATUS_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded"}
# The contract's fields whose name here is another; of all others the last word of the path is the name.
_PARAMS: Mapping[str, str] = MappingProxyType(
    {
        "inputs": "input", "constraint": "response_format", "response.logprobs": "top_logprobs",
        "sampling.dry.multiplier": "dry_multiplier", "sampling.dry.base": "dry_base",
        "sampling.dry.allowed_length": "dry_allowed_length",
        "sampling.dry.sequence_breakers": "dry_sequence_breakers",
    }
)  # fmt: skip
_GROUPS = ("sampling.", "stopping.", "response.")


class OpenAiFace:
    """`{"error": {"message", "type", "param", "code"}}`, which the clients turn into exceptions."""

    def refuse(self, refusal: Refusal) -> HttpResponse:
        return HttpResponse(refusal.status, orjson.dumps({"error": error(refusal)}), headers=refusal.headers)


def error(refusal: Refusal) -> dict[str, str | None]:
    """The object that tells of a refusal."""
    code = _STATUS_CODES.get(refusal.status) or _CODES.get(refusal.reason) or refusal.reason.lower() or None
    param = "model" if refusal.reason == "MODEL_NOT_FOUND" else _param(refusal.param)
    kind = _TYPES.get(refusal.status, "invalid_request_error")
    return {"message": refusal.text, "type": kind, "param": param, "code": code}


def _param(field: str) -> str | None:
    if field in _PARAMS:
        return _PARAMS[field]
    if field.startswith("constraint."):
        return "response_format"
    for group in _GROUPS:
        field = field.removeprefix(group)
    return field or None

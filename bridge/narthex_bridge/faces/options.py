"""How work is to be treated: its priority, and the key under which it is done once."""

from collections.abc import Mapping
from types import MappingProxyType

from narthex.v1 import common_pb2 as common

from narthex_bridge.faces.body import Fields
from narthex_bridge.http.messages import HttpRequest
from narthex_bridge.http.refusal import Refusal

KEY_HEADER = "idempotency-key"
PRIORITY_HEADER = "x-narthex-priority"
LONGEST_KEY = 120
"""With the number of a prompt it stays within the contract's 128."""

PRIORITIES: Mapping[str, common.Priority.ValueType] = MappingProxyType(
    {
        "low": common.PRIORITY_BATCH, "normal": common.PRIORITY_NORMAL, "high": common.PRIORITY_INTERACTIVE,
        "critical": common.PRIORITY_CRITICAL,
    }
)  # fmt: skip
# OpenAI's tiers that are slower and cheaper, or faster and dearer, than others.
_TIERS: Mapping[str, common.Priority.ValueType] = MappingProxyType(
    {"flex": common.PRIORITY_BATCH, "priority": common.PRIORITY_INTERACTIVE}
)


def call_options(http: HttpRequest, body: Fields) -> common.CallOptions:
    """Of the headers, and of `service_tier` where no header names a priority. Raises Refusal."""
    key = http.headers.get(KEY_HEADER, "")
    if len(key) > LONGEST_KEY:
        text = f"The header {KEY_HEADER} must have at most {LONGEST_KEY} characters."
        raise Refusal(400, text, reason="INVALID_REQUEST")
    return common.CallOptions(priority=_priority(http, body), idempotency_key=key)


def numbered(options: common.CallOptions, number: int) -> common.CallOptions:
    """Those of one of several pieces of work, each of which has to have a key of its own."""
    made = common.CallOptions()
    made.CopyFrom(options)
    if made.idempotency_key:
        made.idempotency_key += f"-{number}"
    return made


def _priority(http: HttpRequest, body: Fields) -> common.Priority.ValueType:
    tier = body.any("service_tier")
    given = http.headers.get(PRIORITY_HEADER)
    if given is None:
        return _TIERS.get(tier, common.PRIORITY_UNSPECIFIED) if isinstance(tier, str) else common.PRIORITY_UNSPECIFIED
    if (known := PRIORITIES.get(given.strip().lower())) is not None:
        return known
    text = f"The header {PRIORITY_HEADER} must be one of {', '.join(PRIORITIES)}."
    raise Refusal(400, text, reason="INVALID_REQUEST")

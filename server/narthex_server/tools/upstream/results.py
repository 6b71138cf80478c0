"""What the results of tools are, as far as it is looked at before they are passed on."""

from collections.abc import Mapping
from typing import Any

CALL = "tools/call"
PASSED_ON = ("content", "structuredContent")
"""The members that nobody here looks into."""


def is_call_result(raw: Mapping[str, Any]) -> bool:
    """Whether a call's result has the members that it must have, and the right kind of those that are read."""
    if raw.get("resultType") == "input_required":
        asked = raw.get("inputRequests") or {}
        state = raw.get("requestState")
        return (
            isinstance(asked, dict)
            and all(isinstance(one, dict) and isinstance(one.get("method"), str) for one in asked.values())
            and (state is None or isinstance(state, str))
        )
    content = raw.get("content")
    return isinstance(content, list) and all(
        isinstance(block, dict) and isinstance(block.get("type"), str) for block in content
    )

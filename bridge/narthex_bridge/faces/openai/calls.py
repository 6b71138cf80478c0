"""Tool calls in answers."""

from typing import Any

from narthex.v1 import generation_pb2 as wire


def tool_call(call: wire.ToolCall) -> dict[str, Any]:
    """A call that the caller has to run."""
    function = {"name": call.name, "arguments": call.arguments.decode("utf-8", "replace")}
    return {"id": call.id, "type": "function", "function": function}


def served_call(call: wire.ToolCall, output: str, is_error: bool | None = None) -> dict[str, Any]:
    """A call that the server has run, and what came of it; a whole answer does not say which of them failed."""
    made = {**tool_call(call), "output": output}
    return made if is_error is None else {**made, "is_error": is_error}

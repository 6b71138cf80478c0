"""How the bridge itself is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Standing:
    """What this process holds, of all callers; `max_calls` is for calls of MCP and of models, each by itself."""

    sessions: int
    max_sessions: int
    mcp_calls: int
    model_calls: int
    max_calls: int
    draining: bool

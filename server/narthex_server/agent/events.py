"""What the agent yields."""

from dataclasses import dataclass

from narthex_server.pipelines.events import ChatEvent
from narthex_server.tools.tool import Log, Progress, ToolResult


@dataclass(frozen=True, slots=True)
class ToolActivity:
    """A running call reports something before its result."""

    tool_call_id: str
    activity: Progress | Log


@dataclass(frozen=True, slots=True)
class ToolCallResult:
    """A call has run, or could not be made, which is an error result."""

    tool_call_id: str
    name: str
    result: ToolResult


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """An event of the given round, from 1: one assistant's turn and the tools that it called."""

    round: int
    event: ChatEvent | ToolActivity | ToolCallResult

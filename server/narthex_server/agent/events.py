"""What the agent yields."""

from dataclasses import dataclass

from narthex_server.pipelines.events import ChatEvent
from narthex_server.text.messages import Message, ToolCall
from narthex_server.tools.tool import InputRequired, Log, Progress, ToolResult


@dataclass(frozen=True, slots=True)
class ToolActivity:
    """A running call reports something before its result, or waits for what it wants of its caller."""

    tool_call_id: str
    activity: Progress | Log | InputRequired


@dataclass(frozen=True, slots=True)
class ToolCallEnded:
    """A call has run, or could not be made, which is an error result."""

    call: ToolCall
    result: ToolResult


@dataclass(frozen=True, slots=True)
class ToolCallResult:
    """The result of a call, whole, and the `text` that the model reads of it."""

    tool_call_id: str
    name: str
    result: ToolResult
    text: str

    @property
    def message(self) -> Message:
        """The turn that it is for the model."""
        return Message("tool", self.text, tool_call_id=self.tool_call_id, name=self.name)


@dataclass(frozen=True, slots=True)
class AgentEvent:
    """An event of the given round, from 1: one assistant's turn and the tools that it called."""

    round: int
    event: ChatEvent | ToolActivity | ToolCallResult

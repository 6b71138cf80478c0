"""The turns of a chat, put together from its events."""

from dataclasses import dataclass, field

from narthex_server.agent.events import AgentEvent, ToolCallResult
from narthex_server.pipelines.events import ReasoningDelta, TextDelta
from narthex_server.text.messages import Message, ToolCall


@dataclass(slots=True)
class _Round:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)

    def messages(self) -> list[Message]:
        said = Message("assistant", "".join(self.text), tuple(self.calls), reasoning="".join(self.reasoning))
        order = {call.id: index for index, call in enumerate(self.calls)}
        return [said, *sorted(self.results, key=lambda result: order.get(result.tool_call_id, len(order)))]


class Turns:
    """Collects the events of all rounds of one chat."""

    def __init__(self) -> None:
        self._rounds: dict[int, _Round] = {}

    def add(self, event: AgentEvent) -> None:
        turn = self._rounds.setdefault(event.round, _Round())
        match event.event:
            case TextDelta(text):
                turn.text.append(text)
            case ReasoningDelta(text):
                turn.reasoning.append(text)
            case ToolCall() as call:
                turn.calls.append(call)
            case ToolCallResult() as result:
                turn.results.append(result.message)

    def messages(self) -> list[Message]:
        """All new turns, as they would be appended to the conversation."""
        return [message for turn in self._rounds.values() for message in turn.messages()]

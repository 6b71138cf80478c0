"""One turn of the model in a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from narthex_server.agent.events import ToolCallResult
from narthex_server.pipelines.events import Finished
from narthex_server.text.messages import Message, ToolCall


@dataclass(slots=True)
class Turn:
    """One assistant's turn as it grows, and then the results of its calls, by their ids."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    finished: Finished | None = None
    results: dict[str, ToolCallResult] = field(default_factory=dict)

    def messages(self, made: Sequence[ToolCall]) -> tuple[Message, ...]:
        """What was said, and the results of the calls that were made, in their order."""
        said = Message("assistant", self.text, self.calls, reasoning=self.reasoning)
        return (said, *(self.results[call.id].message for call in made))

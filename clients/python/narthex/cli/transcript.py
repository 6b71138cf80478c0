"""The turns of a conversation, put together from a stream of chat events."""

import json

from narthex.messages import assistant, text_of, tool
from narthex.v1.generation_pb2 import ChatMessage, ChatStreamResponse
from narthex.v1.tool_pb2 import ToolResult


class Transcript:
    """Takes events in their order; `messages` are the turns they make, ready to be sent with the next question."""

    def __init__(self) -> None:
        self.messages: list[ChatMessage] = []
        self._round = 0

    def add(self, event: ChatStreamResponse) -> None:
        match event.WhichOneof("event"):
            case "text_delta":
                turn = self._assistant(event.round)
                turn.content[0].text += event.text_delta.text
            case "tool_call":
                self._assistant(event.round).tool_calls.append(event.tool_call)
            case "tool_result":
                done = event.tool_result
                self.messages.append(tool(done.tool_call_id, done.name, done.text or result_text(done.result)))

    @property
    def text(self) -> str:
        """What the assistant said last."""
        return text_of(self.messages[-1]) if self.messages else ""

    def _assistant(self, round: int) -> ChatMessage:
        if round != self._round or not self.messages:
            self._round = round
            self.messages.append(assistant(""))
        return self.messages[-1]


def result_text(result: ToolResult) -> str:
    """A tool's result in text: its text blocks as they are, other blocks as JSON."""
    blocks = json.loads(result.content or b"[]")
    return "\n".join(block["text"] if block.get("type") == "text" else json.dumps(block) for block in blocks)

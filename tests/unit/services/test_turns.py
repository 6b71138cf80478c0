"""A unary chat's messages are its events, put together."""

from narthex_server.agent.events import AgentEvent, ToolCallResult
from narthex_server.pipelines.events import Finished, FinishReason, Started, TextDelta, Usage
from narthex_server.services.turns import Turns
from narthex_server.text.messages import Message, ToolCall
from narthex_server.tools.tool import ToolResult


def test_rounds_become_messages_in_order():
    call = ToolCall("1", "clock", "{}")
    result = ToolCallResult("1", "clock", ToolResult(b'[{"type": "text", "text": "noon"}]'), "noon")
    turns = Turns()
    for number, event in [
        (1, Started((1,))), (1, TextDelta("Let me ")), (1, TextDelta("look.")), (1, call), (1, result),
        (2, TextDelta("It is noon.")), (2, Finished(FinishReason.STOP, Usage())),
    ]:  # fmt: skip
        turns.add(AgentEvent(number, event))
    assert turns.messages() == [
        Message("assistant", "Let me look.", (call,)),
        Message("tool", "noon", tool_call_id="1", name="clock"),
        Message("assistant", "It is noon."),
    ]

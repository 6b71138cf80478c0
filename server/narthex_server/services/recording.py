"""Chats whose turns a session keeps."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from narthex_server.agent.events import AgentEvent, ToolCallResult
from narthex_server.agent.sessions.session import unfinished
from narthex_server.agent.sessions.sessions import Conversation
from narthex_server.pipelines.events import Finished, Started
from narthex_server.pipelines.request import ChatRequest
from narthex_server.services.turns import Turns
from narthex_server.text.messages import Message

Answers = AsyncGenerator[tuple[int, AgentEvent]]

NOT_MADE = "Error: this call was not made, as the run had used up its limits"


async def recorded(events: Answers, conversation: Conversation, request: ChatRequest, model: str) -> Answers:
    """The events; the session has the request's messages once it is accepted, and then every complete round."""
    sent, turns = request.messages, Turns()
    own = frozenset(tool.name for tool in request.tools)
    async with aclosing(events):
        async for index, event in events:
            match event.event:
                case Started():
                    await conversation.save(sent, model)
                case Finished():
                    await conversation.save((*sent, *_closed(turns.messages(), own)), model)
                case _:
                    turns.add(event)
            if isinstance(event.event, ToolCallResult):
                said = (*sent, *turns.messages())
                if unfinished(said):  # the last result of its round
                    await conversation.save(said, model)
            yield index, event


def _closed(messages: list[Message], own: frozenset[str]) -> list[Message]:
    """With an answer to every call of the catalog that was not made, and without a turn in which nothing was said."""
    answered = {message.tool_call_id for message in messages}
    calls = [call for message in messages for call in message.tool_calls if call.name not in own]
    unmade = [call for call in calls if call.id not in answered]
    said = [one for one in messages if one.role != "assistant" or one.content or one.tool_calls or one.reasoning]
    return said + [Message("tool", NOT_MADE, tool_call_id=call.id, name=call.name) for call in unmade]

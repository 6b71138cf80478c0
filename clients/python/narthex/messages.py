"""The turns of a conversation, in short."""

from narthex.v1.generation_pb2 import ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_TOOL, ROLE_USER, ChatMessage, ContentPart


def system(text: str) -> ChatMessage:
    """Instructions to the model."""
    return ChatMessage(role=ROLE_SYSTEM, content=[ContentPart(text=text)])


def user(text: str) -> ChatMessage:
    """What the person says."""
    return ChatMessage(role=ROLE_USER, content=[ContentPart(text=text)])


def assistant(text: str) -> ChatMessage:
    """What the model said; ChatResponse.messages has such turns with their tool calls."""
    return ChatMessage(role=ROLE_ASSISTANT, content=[ContentPart(text=text)])


def tool(call_id: str, name: str, text: str) -> ChatMessage:
    """What the call `call_id` of the tool `name` gave back, as text for the model."""
    return ChatMessage(role=ROLE_TOOL, content=[ContentPart(text=text)], tool_call_id=call_id, name=name)


def text_of(message: ChatMessage) -> str:
    """The text of a turn, without anything else in it."""
    return "".join(part.text for part in message.content)

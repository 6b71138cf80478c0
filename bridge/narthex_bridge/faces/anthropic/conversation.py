"""The conversation of a request as the contract's turns."""

import json
from collections.abc import Sequence

from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.anthropic import names
from narthex_bridge.faces.body import Fields

_UNSEEN = ("image", "document", "container_upload")


class Conversation:
    """Collects turns in order; neighbours of one speaker become one turn, as templates often want them to alternate."""

    def __init__(self) -> None:
        self.turns: list[wire.ChatMessage] = []
        self._waiting: dict[str, str] = {}
        self._servers: set[str] = set()

    def system(self, request: Fields) -> None:
        """Member `system`: a string, or text blocks."""
        if text := _texts(request, "system"):
            self.turns.append(wire.ChatMessage(role=wire.ROLE_SYSTEM, content=[wire.ContentPart(text=text)]))

    def message(self, message: Fields) -> None:
        """A member of `messages`. Raises Refusal."""
        match message.one_of("role", "user", "assistant", "system"):
            case "user":
                self._user(message)
            case "assistant":
                self._assistant(message)
            case "system":
                self._say(wire.ROLE_SYSTEM, _texts(message, "content"))
            case _:
                raise message.fault("role", "is missing")

    def settle(self, request: Fields) -> None:
        """Ends the conversation. A last round whose calls the server has not run is left out: the model says it anew.

        Raises Refusal where nothing is left, a call has no result, or the assistant's turn would have to go on.
        """
        left = self._servers & self._waiting.keys()
        if self.turns and any(call.id in left for call in self.turns[-1].tool_calls):
            for call in self.turns.pop().tool_calls:
                self._waiting.pop(call.id, None)
        if self._waiting:
            raise request.fault("messages", f"must hold a result for the call {json.dumps(next(iter(self._waiting)))}")
        if not self.turns or self.turns[-1].role == wire.ROLE_SYSTEM:
            raise request.fault("messages", "must hold something that the model can answer")
        if self.turns[-1].role == wire.ROLE_ASSISTANT:
            raise request.fault("messages", "must end with a user's turn: an answer cannot be begun for the model")

    def _user(self, message: Fields) -> None:
        if isinstance(message.any("content"), str):
            self._say(wire.ROLE_USER, message.needed_text("content"))
            return
        for block in message.objects("content"):
            match kind := block.needed_text("type"):
                case "text":
                    self._say(wire.ROLE_USER, block.needed_text("text"))
                case "tool_result":
                    self._answer(block)
                case _:
                    raise _foreign(block, kind)

    def _assistant(self, message: Fields) -> None:
        if isinstance(message.any("content"), str):
            self._speaker().content.add(text=message.needed_text("content"))
            return
        for block in message.objects("content"):
            match kind := block.needed_text("type"):
                case "text":
                    self._speaker().content.add(text=block.needed_text("text"))
                case "thinking":
                    self._speaker().reasoning += block.needed_text("thinking")
                case "redacted_thinking":
                    pass  # nobody here can read it
                case "tool_use" | "mcp_tool_use":
                    name = names.tool(block.text("server_name") or "", block.needed_text("name"))
                    call_id = block.needed_text("id")
                    self._waiting[call_id] = name
                    if kind == "mcp_tool_use":
                        self._servers.add(call_id)
                    arguments = block.json("input") or b"{}"
                    self._speaker().tool_calls.add(id=call_id, name=name, arguments=arguments)
                case "mcp_tool_result":
                    self._answer(block)
                case _:
                    raise _foreign(block, kind)

    def _speaker(self) -> wire.ChatMessage:
        """The assistant's turn that goes on, or a new one."""
        if not self.turns or self.turns[-1].role != wire.ROLE_ASSISTANT:
            self.turns.append(wire.ChatMessage(role=wire.ROLE_ASSISTANT))
        return self.turns[-1]

    def _say(self, role: wire.Role.ValueType, text: str) -> None:
        if not text:
            return
        if self.turns and self.turns[-1].role == role:
            self.turns[-1].content.add(text=f"\n{text}")
        else:
            self.turns.append(wire.ChatMessage(role=role, content=[wire.ContentPart(text=text)]))

    def _answer(self, block: Fields) -> None:
        call_id = block.needed_text("tool_use_id")
        name = self._waiting.pop(call_id, None)
        if name is None:
            raise block.fault("tool_use_id", f"names {json.dumps(call_id)}, which is no call that waits for a result")
        text = _texts(block, "content")
        if block.flag("is_error"):
            text = f"Error: {text or 'the tool failed without saying why'}"
        content = [wire.ContentPart(text=text)] if text else []
        self.turns.append(wire.ChatMessage(role=wire.ROLE_TOOL, tool_call_id=call_id, name=name, content=content))


def _texts(owner: Fields, name: str) -> str:
    """The text of a string, or of text blocks with a line break between; empty where there is none."""
    value = owner.any(name)
    if value is None or isinstance(value, str):
        return value or ""
    return "\n".join(_text(block) for block in owner.objects(name))


def _text(block: Fields) -> str:
    if (kind := block.needed_text("type")) != "text":
        raise _foreign(block, kind)
    return block.needed_text("text")


def _foreign(block: Fields, kind: str) -> Exception:
    if kind in _UNSEEN:
        return block.fault("type", f"is {json.dumps(kind)}, which the models here cannot take: send text")
    return block.fault("type", f"{json.dumps(kind)} has no meaning at this place, or none here at all")


def turns(request: Fields) -> Sequence[wire.ChatMessage]:
    """Members `system` and `messages`. Raises Refusal."""
    conversation = Conversation()
    conversation.system(request)
    for message in request.objects("messages"):
        conversation.message(message)
    conversation.settle(request)
    return conversation.turns

"""A response's input: a string, or items that say what was said and done before."""

from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.body import Fields
from narthex_bridge.faces.openai.messages import ROLES
from narthex_bridge.faces.openai.parts import content, plain


def conversation(body: Fields) -> list[wire.ChatMessage]:
    """The messages that `instructions` and `input` amount to; the items of one turn of the model become one message."""
    found: list[wire.ChatMessage] = []
    if instructions := body.text("instructions"):
        found.append(_message("system", [wire.ContentPart(text=instructions)]))
    given = body.any("input")
    if given is None:
        raise body.fault("input", "is missing")
    if isinstance(given, str):
        return [*found, _message("user", [wire.ContentPart(text=given)])]
    names: dict[str, str] = {}
    for item in body.objects("input"):
        _add(item, found, names)
    return found


def _add(item: Fields, found: list[wire.ChatMessage], names: dict[str, str]) -> None:
    match item.text("type") or "message":
        case "message":
            role = item.one_of("role", *ROLES)
            if role is None or role == "tool":
                raise item.fault("role", "must be system, developer, user or assistant")
            message = _turn(found, spoken=True) if role == "assistant" else _message(role, [])
            message.content.extend(content(item))
            if role != "assistant":
                found.append(message)
        case "reasoning":
            _turn(found, spoken=True).reasoning += plain(item, "content")
        case "function_call":
            call = wire.ToolCall(
                id=item.needed_text("call_id"),
                name=item.needed_text("name"),
                arguments=(item.text("arguments") or "{}").encode(),
            )
            names[call.id] = call.name
            _turn(found, spoken=False).tool_calls.append(call)
        case "function_call_output":
            call_id = item.needed_text("call_id")
            found.append(_result(call_id, names.get(call_id, ""), content(item, "output")))
        case "mcp_call":
            call_id, name = item.needed_text("id"), item.needed_text("name")
            arguments = (item.text("arguments") or "{}").encode()
            _turn(found, spoken=False).tool_calls.add(id=call_id, name=name, arguments=arguments)
            found.append(_result(call_id, name, [wire.ContentPart(text=item.text("output") or "")]))
        case "mcp_list_tools":
            pass  # what the server offers is known to it
        case kind:
            raise item.fault("type", f"{kind!r:.40} is not supported here")


def _turn(found: list[wire.ChatMessage], spoken: bool) -> wire.ChatMessage:
    """The model's turn that is being put together; a new one where it has `spoken` before or acted."""
    last = found[-1] if found else None
    if last is not None and last.role == wire.ROLE_ASSISTANT and not (spoken and (last.content or last.tool_calls)):
        return last
    found.append(_message("assistant", []))
    return found[-1]


def _message(role: str, parts: list[wire.ContentPart]) -> wire.ChatMessage:
    return wire.ChatMessage(role=ROLES[role], content=parts)


def _result(call_id: str, name: str, parts: list[wire.ContentPart]) -> wire.ChatMessage:
    return wire.ChatMessage(role=wire.ROLE_TOOL, tool_call_id=call_id, name=name, content=parts)

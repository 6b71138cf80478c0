"""Text and conversations to token ids, away from the event loop where that takes long."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from narthex_server.errors import InvalidRequest, Violation
from narthex_server.pipelines.models import TextModel
from narthex_server.pipelines.request import ChatRequest, check_choice, refuse
from narthex_server.text import reasoning
from narthex_server.text.calls.detect import detect
from narthex_server.text.calls.parser import Dialect
from narthex_server.text.messages import Message, ToolCall, ToolSpec
from narthex_server.text.reasoning import Reasoning

ROLES = ("system", "developer", "user", "assistant", "tool")
SMALL = 2_048
"""Characters that are tokenized at once (about a millisecond); longer text goes to a thread."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation ready for the engine; `dialect` where tools are offered, `reasoning` where the model thinks."""

    ids: tuple[int, ...]
    text: str
    dialect: Dialect | None
    reasoning: Reasoning | None = None


async def encode(model: TextModel, text: str, add_special: bool = True) -> tuple[int, ...]:
    """The ids of `text`, by default with the special tokens that the tokenizer adds."""
    tokenizer = model.text.tokenizer
    if len(text) <= SMALL:
        return tuple(tokenizer.encode(text, add_special))
    return tuple(await asyncio.to_thread(tokenizer.encode, text, add_special))


async def decode(model: TextModel, ids: Sequence[int], skip_special: bool = True) -> str:
    """The text of `ids`. Errors: InvalidRequest for an id outside the vocabulary."""
    check_ids(model, ids, "token_ids")
    if len(ids) <= SMALL:
        return model.text.tokenizer.decode(ids, skip_special)
    return await asyncio.to_thread(model.text.tokenizer.decode, ids, skip_special)


async def encode_chat(model: TextModel, request: ChatRequest) -> ChatPrompt:
    """Renders and tokenizes a conversation. Errors: InvalidRequest for what the model's template cannot say."""
    _check_messages(request.messages)
    tools, dialect = _offered(model, request)
    size = sum(len(message.content) for message in request.messages) + sum(len(tool.parameters) for tool in tools)
    if size <= SMALL:
        return _chat(model, request, tools, dialect)
    return await asyncio.to_thread(_chat, model, request, tools, dialect)


def supports_tools(model: TextModel) -> bool:
    """Whether the model's template knows how to offer tools."""
    return model.text.template is not None and detect(model.text.template.source) is not None


def reasons(model: TextModel) -> bool:
    """Whether the model's template is for one whose thoughts can be told from its text."""
    return model.text.template is not None and reasoning.detect(model.text.template.source) is not None


def check_ids(model: TextModel, ids: Sequence[int], field: str) -> None:
    """Errors: InvalidRequest for ids that the model does not have."""
    if ids and not 0 <= min(ids) <= max(ids) < model.handle.vocab_size:
        refuse((Violation(field, f"each must be between 0 and {model.handle.vocab_size - 1}"),))


def _offered(model: TextModel, request: ChatRequest) -> tuple[tuple[ToolSpec, ...], Dialect | None]:
    check_choice(request)
    if not request.tools or request.tool_choice.mode == "none":
        return (), None
    template = model.text.template
    dialect = detect(template.source) if template else None
    if template and dialect is None:
        refuse((Violation("tools", f"model {model.name} cannot use tools: its chat template has no place for them"),))
    return request.tools, dialect


def _chat(model: TextModel, request: ChatRequest, tools: tuple[ToolSpec, ...], dialect: Dialect | None) -> ChatPrompt:
    template = model.text.template
    if template is None:
        raise InvalidRequest(
            f"model {model.name} has no chat template, so it cannot chat; continue a text with it instead",
            reason="NO_CHAT_TEMPLATE",
        )
    messages = request.messages
    if dialect and dialect.write:
        messages = tuple(_written(message, dialect.write) for message in messages)
    text = template.render(messages, tools, options=request.template_options)
    # The template prints special tokens, BOS included, itself.
    ids = tuple(model.text.tokenizer.encode(text, add_special=False))
    return ChatPrompt(ids, text, dialect, reasoning.detect(template.source))


def _written(message: Message, write: Callable[[Sequence[ToolCall]], str]) -> Message:
    return replace(message, content=message.content + write(message.tool_calls)) if message.tool_calls else message


def _check_messages(messages: Sequence[Message]) -> None:
    if not messages:
        refuse((Violation("messages", "must have at least one"),))
    refuse(
        tuple(
            Violation(f"messages[{index}].role", f"must be one of {', '.join(ROLES)}, got {message.role!r}")
            for index, message in enumerate(messages)
            if message.role not in ROLES
        )
    )

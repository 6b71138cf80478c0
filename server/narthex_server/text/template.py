"""Chat templates: Jinja2 as Hugging Face models write it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from narthex_server.errors import InvalidModelFile, InvalidRequest
from narthex_server.text.messages import Message, ToolCall, ToolSpec
from narthex_server.text.sandbox import Sandbox, limits

NO_OPTIONS: Mapping[str, object] = MappingProxyType({})
LARGEST_SOURCE = 1 << 20
_WIDEST_INDENT = 16


class ChatTemplate:
    """A model's chat template: `sources` by name, `tokens` the special tokens it may print (bos_token, eos_token, …).

    A folder may hold several: `tool_use` is taken when tools are given, otherwise `default`. Errors: InvalidModelFile
    when a template does not compile.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        tokens: Mapping[str, str] = MappingProxyType({}),
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        environment = _environment(now)
        self.sources = dict(sources)
        self._tokens = dict(tokens)
        self._templates = {name: _compile(environment, name, source) for name, source in sources.items()}

    @property
    def source(self) -> str:
        """All template text, for finding out what a model can do."""
        return "\n".join(self.sources.values())

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        *,
        add_generation_prompt: bool = True,
        options: Mapping[str, object] = NO_OPTIONS,
    ) -> str:
        """The prompt text; `options` are further variables such as enable_thinking.

        Errors: InvalidRequest when the template refuses the conversation or cannot render it.
        """
        values = [tool_value(tool) for tool in tools] or None

        def render(turns: Sequence[Message]) -> str:
            return self.render_raw(
                [message_value(message) for message in turns],
                values,
                add_generation_prompt=add_generation_prompt,
                options=options,
            )

        try:
            return render(messages)
        except InvalidRequest:
            # Some templates (Llama 3's) know only turns with a single call.
            if not any(len(message.tool_calls) > 1 for message in messages):
                raise
            return render(one_call_per_turn(messages))

    def render_raw(
        self,
        messages: Sequence[Mapping[str, object]],
        tools: Sequence[Mapping[str, object]] | None,
        *,
        add_generation_prompt: bool,
        options: Mapping[str, object] = NO_OPTIONS,
    ) -> str:
        """As `render`, with messages and tools as the JSON values that templates see."""
        variables: dict[str, object] = {
            **self._tokens,
            "documents": None,
            **options,
            "messages": messages,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
            **limits(),
        }
        try:
            return self._pick(tools is not None).render(variables)
        except TemplateError as error:
            raise InvalidRequest(
                f"the model's chat template refuses this conversation: {error.message or error}", reason="CHAT_TEMPLATE"
            ) from error
        except (
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            MemoryError,
        ) as error:
            raise InvalidRequest(
                f"the model's chat template cannot render this conversation: {error}", reason="CHAT_TEMPLATE"
            ) from error

    def _pick(self, with_tools: bool) -> Template:
        names = ("tool_use", "default") if with_tools else ("default",)
        for name in names:
            if name in self._templates:
                return self._templates[name]
        return next(iter(self._templates.values()))


def message_value(message: Message) -> dict[str, object]:
    """A message as templates expect it: absent parts are absent keys, JSON arguments are objects."""
    value: dict[str, object] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        value["tool_calls"] = [
            {"id": call.id, "type": "function", "function": _function(call)} for call in message.tool_calls
        ]
    if message.tool_call_id:
        value["tool_call_id"] = message.tool_call_id
    if message.name:
        value["name"] = message.name
    if message.reasoning:
        value["reasoning_content"] = message.reasoning
    return value


def one_call_per_turn(messages: Sequence[Message]) -> list[Message]:
    """The same conversation with turns of several calls told one after the other, each call with its result."""
    results = {message.tool_call_id: message for message in messages if message.role == "tool"}
    told: list[Message] = []
    moved: set[str] = set()
    for message in messages:
        if message.role == "tool" and message.tool_call_id in moved:
            continue
        if len(message.tool_calls) < 2:
            told.append(message)
            continue
        for index, call in enumerate(message.tool_calls):
            told.append(replace(message, content="" if index else message.content, tool_calls=(call,)))
            if call.id in results:
                told.append(results[call.id])
                moved.add(call.id)
    return told


def tool_value(tool: ToolSpec) -> dict[str, object]:
    """A tool as templates expect it. Errors: InvalidRequest when its parameters are not a JSON object."""
    try:
        parameters = json.loads(tool.parameters or "{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"the parameters of tool {tool.name!r} are not JSON: {error}") from error
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"the parameters of tool {tool.name!r} are not a JSON object")
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _function(call: ToolCall) -> dict[str, object]:
    try:
        value = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        value = None
    return {"name": call.name, "arguments": value if isinstance(value, dict) else call.arguments}


class _Generation(Extension):
    """`{% generation %}` marks what a trainer learns from; when serving, its body is simply printed."""

    tags = {"generation"}  # noqa: RUF012 (Extension declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(now: Callable[[], datetime]) -> Environment:
    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda layout: now().strftime(layout)
    return environment


def _compile(environment: Environment, name: str, source: str) -> Template:
    if len(source) > LARGEST_SOURCE:
        raise InvalidModelFile(f"chat template {name!r} has {len(source)} characters; allowed are {LARGEST_SOURCE}")
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise InvalidModelFile(f"chat template {name!r} is broken at line {error.lineno}: {error.message}") from error
    except (RecursionError, SyntaxError, ValueError, MemoryError) as error:
        raise InvalidModelFile(f"chat template {name!r} does not compile: {error}") from error


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if isinstance(indent, int) and indent > _WIDEST_INDENT:
        raise TemplateError(f"it indents JSON by {indent}")
    # Jinja's own filter escapes HTML and sorts keys; models were trained on plain JSON in the caller's order.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)

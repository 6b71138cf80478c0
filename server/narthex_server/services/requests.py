"""Wire to domain, for text generation."""

import json
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from narthex.v1 import generation_pb2 as wire

from narthex_server.agent.options import AgentOptions, Approvals, Limits, ResultLimits
from narthex_server.agent.sessions.sessions import Conversation
from narthex_server.engine.request import AdapterUse
from narthex_server.errors import Violation
from narthex_server.pipelines.request import (
    ChatRequest,
    DryOptions,
    GenerateRequest,
    SamplingOptions,
    Scoring,
    StoppingOptions,
    ToolChoice,
    refuse,
)
from narthex_server.pipelines.several import MOST_COMPLETIONS
from narthex_server.text.constraint import Choice, Constraint, JsonSchema, LarkGrammar, Regex
from narthex_server.text.messages import Message, ToolCall, ToolSpec

ROLES: Mapping[int, str] = MappingProxyType(
    {
        wire.ROLE_SYSTEM: "system",
        wire.ROLE_USER: "user",
        wire.ROLE_ASSISTANT: "assistant",
        wire.ROLE_TOOL: "tool",
    }
)
_CHOICES: Mapping[int, str] = MappingProxyType(
    {
        wire.TOOL_CHOICE_MODE_UNSPECIFIED: "auto",
        wire.TOOL_CHOICE_MODE_AUTO: "auto",
        wire.TOOL_CHOICE_MODE_NONE: "none",
        wire.TOOL_CHOICE_MODE_REQUIRED: "required",
    }
)
LARGEST_SCALE = 100
"""What an adapter's effect may be multiplied by: far beyond what any adapter was made for, and far from overflow."""


def generate_request(spec: wire.GenerationSpec, request_id: str) -> GenerateRequest:
    """Raises InvalidRequest with the fields at fault."""
    match spec.WhichOneof("prompt"):
        case "text":
            prompt: str | tuple[int, ...] = spec.text
        case "token_ids":
            prompt = tuple(spec.token_ids.ids)
        case _:
            prompt = ""
    if not prompt:
        refuse([Violation("prompt", "must be text or token_ids, and not empty")])
    return GenerateRequest(
        request_id,
        prompt,
        sampling_from(spec.sampling),
        stopping_from(spec.stopping),
        skip_special=_default_true(spec.response, "skip_special_tokens"),
        adapters=adapters_from(spec.adapters),
        constraint=constraint_from(spec.constraint),
        scoring=scoring_from(spec.response),
        echo=spec.response.echo,
        wanted_ids=wanted_ids(spec.response),
    )


def chat_request(spec: wire.ChatSpec, request_id: str, conversation: Conversation | None = None) -> ChatRequest:
    """With the messages of the conversation before the new ones. Raises InvalidRequest with the fields at fault.

    FailedPrecondition where nothing of the conversation was broken off and it is to go on.
    """
    if spec.response.echo:
        refuse([Violation("response.echo", "is for prompts; a chat has no text that it continues")])
    if spec.tool_execution == wire.TOOL_EXECUTION_SERVER and completions(spec) > 1:
        refuse([Violation("n", "must be 1 where the server runs the tools")])
    if conversation is not None and completions(spec) > 1:
        refuse([Violation("n", "must be 1 in a session")])
    options = template_options(spec.template_arguments)
    if spec.reasoning.HasField("enabled"):
        options = {**options, "enable_thinking": spec.reasoning.enabled}
    return ChatRequest(
        request_id,
        _messages(spec, conversation),
        tools_from(spec.tools),
        tool_choice_from(spec.tool_choice),
        sampling_from(spec.sampling),
        stopping_from(spec.stopping),
        options,
        skip_special=_default_true(spec.response, "skip_special_tokens"),
        adapters=adapters_from(spec.adapters),
        constraint=constraint_from(spec.constraint),
        max_thoughts=spec.reasoning.max_tokens if spec.reasoning.HasField("max_tokens") else None,
        scoring=scoring_from(spec.response),
        wanted_ids=wanted_ids(spec.response),
    )


def wanted_ids(response: wire.ResponseOptions) -> tuple[str, ...]:
    """The fields that ask for token ids."""
    asked = {"response.token_ids": response.token_ids, "response.prompt_token_ids": response.prompt_token_ids}
    return tuple(field for field, given in asked.items() if given)


def completions(spec: wire.GenerationSpec | wire.ChatSpec) -> int:
    """How many completions are asked for. Errors: InvalidRequest."""
    count = spec.n if spec.HasField("n") else 1
    if not 1 <= count <= MOST_COMPLETIONS:
        refuse([Violation("n", f"must be between 1 and {MOST_COMPLETIONS}, got {count}")])
    return count


def scoring_from(response: wire.ResponseOptions) -> Scoring:
    return Scoring(
        response.logprobs if response.HasField("logprobs") else None,
        response.prompt_logprobs if response.HasField("prompt_logprobs") else None,
    )


def constraint_from(constraint: wire.Constraint) -> Constraint | None:
    """None where no rule is set; whether the rule makes sense is found when it is compiled."""
    match constraint.WhichOneof("rule"):
        case "json_schema":
            try:
                return JsonSchema(constraint.json_schema.decode())
            except UnicodeDecodeError:
                refuse([Violation("constraint.json_schema", "must be JSON in UTF-8")])
        case "regex":
            return Regex(constraint.regex)
        case "lark":
            return LarkGrammar(constraint.lark)
        case "choice":
            return Choice(tuple(constraint.choice.options))
    return None


def template_options(data: bytes) -> Mapping[str, object]:
    """More variables for a chat template, from a JSON object; none where it is empty."""
    found: dict[str, object] = json.loads(_json_object(data or b"{}", "template_arguments"))
    return MappingProxyType(found)


def sampling_from(options: wire.SamplingOptions) -> SamplingOptions:
    """Unset stays unset: the model's own default. Values out of range are refused where they are settled."""
    return SamplingOptions(
        **_given(options, "temperature", "top_k", "top_p", "min_p", "seed"),
        **_given(options, "frequency_penalty", "presence_penalty", "repetition_penalty"),
        dry=_dry(options.dry) if options.HasField("dry") else None,
        logit_bias=tuple(sorted(options.logit_bias.items())),
        allowed_token_ids=tuple(options.allowed_token_ids),
    )


def stopping_from(options: wire.StoppingOptions) -> StoppingOptions:
    return StoppingOptions(
        options.max_tokens if options.HasField("max_tokens") else None,
        tuple(options.stop),
        frozenset(options.stop_token_ids),
        options.include_stop,
        options.ignore_eos,
        min_tokens=options.min_tokens,
    )


def adapters_from(uses: Iterable[wire.AdapterUse]) -> tuple[AdapterUse, ...]:
    found = []
    for index, use in enumerate(uses):
        scale = use.scale if use.HasField("scale") else 1.0
        if not use.name:
            refuse([Violation(f"adapters[{index}].name", "must not be empty")])
        if not abs(scale) <= LARGEST_SCALE:
            limits = f"must be between -{LARGEST_SCALE} and {LARGEST_SCALE}"
            refuse([Violation(f"adapters[{index}].scale", f"{limits}, got {scale:g}")])
        found.append(AdapterUse(use.name, scale))
    return tuple(found)


def tool_choice_from(choice: wire.ToolChoice) -> ToolChoice:
    return ToolChoice(name=choice.name) if choice.name else ToolChoice(_CHOICES.get(choice.mode, "auto"))


def messages_from(messages: Sequence[wire.ChatMessage]) -> tuple[Message, ...]:
    """Raises InvalidRequest where there is none, a role is missing, or a part is neither text nor supported."""
    if not messages:
        refuse([Violation("messages", "must hold at least one message")])
    return tuple(_message(message, f"messages[{index}]") for index, message in enumerate(messages))


def tools_from(tools: Iterable[wire.ToolSpec]) -> tuple[ToolSpec, ...]:
    found = []
    for index, tool in enumerate(tools):
        parameters = tool.parameters or b'{"type": "object", "properties": {}}'
        _json_object(parameters, f"tools[{index}].parameters")
        if not tool.name:
            refuse([Violation(f"tools[{index}].name", "must not be empty")])
        found.append(ToolSpec(tool.name, tool.description, parameters.decode(), tool.strict))
    return tuple(found)


def agent_options(spec: wire.ChatSpec, defaults: AgentOptions) -> AgentOptions:
    """What is unset is the default's; whether it makes sense is found when the run begins."""
    agent = spec.agent
    approvals, results = agent.approvals, agent.results
    return AgentOptions(
        tuple(spec.catalog_tools),
        _or(spec, "max_tool_rounds", defaults.max_tool_rounds),
        defaults.tool_seconds,
        _or(agent, "max_parallel_tool_calls", defaults.parallel),
        _or(agent, "max_repeats", defaults.repeats),
        Limits(
            _or(agent, "max_seconds", None),
            _or(agent, "max_generated_tokens", None),
            _or(agent, "max_total_tokens", None),
            _or(agent, "max_tool_calls", None),
            _or(agent, "max_result_bytes", None),
        ),
        Approvals(
            tuple(approvals.tools),
            approvals.unless_read_only,
            _or(approvals, "max_wait_seconds", defaults.approvals.seconds),
        ),
        ResultLimits(
            _or(results, "max_bytes", defaults.results.bytes),
            _or(results, "max_tokens", None),
            _or(results, "max_total_bytes", None),
        ),
    )


def _messages(spec: wire.ChatSpec, conversation: Conversation | None) -> tuple[Message, ...]:
    if conversation is None:
        return messages_from(spec.messages)
    if not spec.session.continue_run:
        return (*conversation.session.messages, *messages_from(spec.messages))
    if spec.messages:
        refuse([Violation("messages", "must be empty where a run is to go on")])
    return conversation.continued()


def _or(
    message: wire.ChatSpec | wire.AgentOptions | wire.ApprovalOptions | wire.ResultOptions, field: str, default: Any
) -> Any:
    """The field, or the default where it is unset."""
    return getattr(message, field) if message.HasField(field) else default  # type: ignore[arg-type]


def _message(message: wire.ChatMessage, path: str) -> Message:
    role = ROLES.get(message.role)
    if role is None:
        refuse([Violation(f"{path}.role", "must be set: system, user, assistant or tool")])
    parts = []
    for index, part in enumerate(message.content):
        kind = part.WhichOneof("part")
        if kind is None:
            refuse([Violation(f"{path}.content[{index}]", "must hold text, an image or audio")])
        if kind != "text":
            refuse([Violation(f"{path}.content[{index}].{kind}", "is not something that this model takes; send text")])
        parts.append(part.text)
    calls = []
    for index, call in enumerate(message.tool_calls):
        where = f"{path}.tool_calls[{index}].arguments"
        calls.append(ToolCall(call.id, call.name, _json_object(call.arguments or b"{}", where)))
    text = "".join(parts)
    return Message(role or "", text, tuple(calls), message.tool_call_id, message.name, message.reasoning)


def _json_object(data: bytes, path: str) -> str:
    """The text of a JSON object, as it was written."""
    try:
        text = data.decode()
        fits = isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        fits = False
    if not fits:
        refuse([Violation(path, "must be a JSON object, in UTF-8")])
    return text


def _given(options: wire.SamplingOptions | wire.DryOptions, *names: str) -> dict[str, Any]:
    """Those fields that are set."""
    return {name: getattr(options, name) for name in names if options.HasField(name)}  # type: ignore[arg-type]


def _dry(options: wire.DryOptions) -> DryOptions:
    return DryOptions(
        **_given(options, "multiplier", "base", "allowed_length", "window"),
        sequence_breakers=tuple(options.sequence_breakers),
    )


def _default_true(options: wire.ResponseOptions, field: str) -> bool:
    return bool(getattr(options, field)) if options.HasField(field) else True  # type: ignore[arg-type]

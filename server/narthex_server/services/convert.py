"""Wire to domain and back, for text generation; what the engine cannot do yet is refused rather than ignored."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire

from narthex_server.agent.events import AgentEvent, ToolActivity, ToolCallResult
from narthex_server.agent.loop import AgentOptions
from narthex_server.engine.request import AdapterUse
from narthex_server.errors import Unimplemented, Violation
from narthex_server.pipelines.events import (
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallStarted,
)
from narthex_server.pipelines.request import (
    ChatRequest,
    GenerateRequest,
    SamplingOptions,
    StoppingOptions,
    ToolChoice,
)
from narthex_server.pipelines.request import refuse as refuse_all
from narthex_server.services.tool import event_to_wire as tool_event_to_wire
from narthex_server.services.tool import result_to_wire
from narthex_server.text.constraint import Choice, Constraint, JsonSchema, LarkGrammar, Regex
from narthex_server.text.messages import Message, ToolCall, ToolSpec
from narthex_server.tools.tool import Progress

ROLES: Mapping[int, str] = MappingProxyType(
    {
        wire.ROLE_SYSTEM: "system",
        wire.ROLE_USER: "user",
        wire.ROLE_ASSISTANT: "assistant",
        wire.ROLE_TOOL: "tool",
    }
)
REASONS: Mapping[FinishReason, common.FinishReason.ValueType] = MappingProxyType(
    {
        FinishReason.STOP: common.FINISH_REASON_STOP,
        FinishReason.LENGTH: common.FINISH_REASON_LENGTH,
        FinishReason.TOOL_CALLS: common.FINISH_REASON_TOOL_CALLS,
        FinishReason.TOOL_ROUNDS: common.FINISH_REASON_TOOL_ROUNDS,
        FinishReason.CANCELLED: common.FINISH_REASON_CANCELLED,
    }
)
CHOICES: Mapping[int, str] = MappingProxyType(
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
    """Raises InvalidRequest with the fields at fault, Unimplemented for what is not built yet."""
    _refuse_unbuilt(spec)
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
    )


def chat_request(spec: wire.ChatSpec, request_id: str) -> ChatRequest:
    """Raises InvalidRequest with the fields at fault, Unimplemented for what is not built yet."""
    _refuse_unbuilt(spec)
    options = template_options(spec.template_arguments)
    if spec.reasoning.HasField("enabled"):
        options = {**options, "enable_thinking": spec.reasoning.enabled}
    return ChatRequest(
        request_id,
        messages_from(spec.messages),
        tools_from(spec.tools),
        tool_choice_from(spec.tool_choice),
        sampling_from(spec.sampling),
        stopping_from(spec.stopping),
        options,
        skip_special=_default_true(spec.response, "skip_special_tokens"),
        adapters=adapters_from(spec.adapters),
        constraint=constraint_from(spec.constraint),
        max_thoughts=spec.reasoning.max_tokens if spec.reasoning.HasField("max_tokens") else None,
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
    refuse([*_not_finite(options)])
    _refuse_unbuilt_sampling(options)

    def given(name: str) -> Any:
        return getattr(options, name) if options.HasField(name) else None  # type: ignore[arg-type]

    return SamplingOptions(given("temperature"), given("top_k"), given("top_p"), given("min_p"), given("seed"))


def stopping_from(options: wire.StoppingOptions) -> StoppingOptions:
    if options.min_tokens:
        raise _unbuilt("stopping.min_tokens")
    return StoppingOptions(
        options.max_tokens if options.HasField("max_tokens") else None,
        tuple(options.stop),
        frozenset(options.stop_token_ids),
        options.include_stop,
        options.ignore_eos,
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
    return ToolChoice(name=choice.name) if choice.name else ToolChoice(CHOICES.get(choice.mode, "auto"))


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


def message_to_wire(message: Message) -> wire.ChatMessage:
    return wire.ChatMessage(
        role=next(number for number, role in ROLES.items() if role == message.role),  # type: ignore[arg-type]
        content=[wire.ContentPart(text=message.content)] if message.content else [],
        tool_calls=map(call_to_wire, message.tool_calls),
        tool_call_id=message.tool_call_id,
        name=message.name,
        reasoning=message.reasoning,
    )


def call_to_wire(call: ToolCall) -> wire.ToolCall:
    return wire.ToolCall(id=call.id, name=call.name, arguments=call.arguments.encode())


def agent_event_to_wire(
    event: AgentEvent, request_id: str, model: str, response: wire.ResponseOptions
) -> wire.ChatStreamResponse:
    made = wire.ChatStreamResponse(round=event.round)
    match event.event:
        case Started() as started:
            made.round = 0
            made.started.CopyFrom(started_to_wire(started, request_id, model, response))
        case TextDelta() as delta:
            made.text_delta.CopyFrom(delta_to_wire(delta, response))
        case ReasoningDelta(text):
            made.reasoning_delta.text = text
        case ToolCallStarted(call_id, name):
            made.tool_call_started.id, made.tool_call_started.name = call_id, name
        case ToolCall() as call:
            made.tool_call.CopyFrom(call_to_wire(call))
        case ToolActivity(call_id, activity):
            made.tool_activity.tool_call_id = call_id
            reported = tool_event_to_wire(activity)
            if isinstance(activity, Progress):
                made.tool_activity.progress.CopyFrom(reported.progress)
            else:
                made.tool_activity.log.CopyFrom(reported.log)
        case ToolCallResult(call_id, name, result):
            made.tool_result.tool_call_id, made.tool_result.name = call_id, name
            made.tool_result.result.CopyFrom(result_to_wire(result))
        case Finished() as finished:
            made.finished.CopyFrom(finished_to_wire(finished))
    return made


def started_to_wire(started: Started, request_id: str, model: str, response: wire.ResponseOptions) -> wire.Started:
    made = wire.Started(request_id=request_id, model=model)
    fill_prompt(made.prompt, started, response)
    return made


def fill_prompt(prompt: wire.PromptInfo, started: Started, response: wire.ResponseOptions) -> None:
    if response.prompt_token_ids:
        prompt.token_ids.extend(started.prompt_ids)


def wants_text(response: wire.ResponseOptions) -> bool:
    return _default_true(response, "text")


def agent_options(spec: wire.ChatSpec) -> AgentOptions:
    rounds = spec.max_tool_rounds if spec.HasField("max_tool_rounds") else AgentOptions().max_tool_rounds
    return AgentOptions(tuple(spec.catalog_tools), rounds)


def delta_to_wire(delta: TextDelta, response: wire.ResponseOptions) -> common.TextDelta:
    return common.TextDelta(
        text=delta.text if wants_text(response) else "",
        token_ids=delta.token_ids if response.token_ids else (),
    )


def finished_to_wire(finished: Finished) -> common.Finished:
    usage = finished.usage
    made = common.Finished(
        finish_reason=REASONS[finished.reason],
        usage=common.Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
        ),
    )
    if finished.stop_string is not None:
        made.stop_string = finished.stop_string
    elif finished.stop_token_id is not None:
        made.stop_token_id = finished.stop_token_id
    return made


def refuse(violations: Iterable[Violation]) -> None:
    """Raises InvalidRequest that names all of them, if there are any."""
    refuse_all(tuple(violations))


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
    except ValueError:
        fits = False
    if not fits:
        refuse([Violation(path, "must be a JSON object, in UTF-8")])
    return text


def _not_finite(options: wire.SamplingOptions) -> Iterator[Violation]:
    for name in ("frequency_penalty", "presence_penalty", "repetition_penalty"):
        if options.HasField(name) and not math.isfinite(value := getattr(options, name)):
            yield Violation(f"sampling.{name}", f"must be a finite number, got {value}")
    for token, bias in options.logit_bias.items():
        if not math.isfinite(bias):
            yield Violation(f"sampling.logit_bias[{token}]", f"must be a finite number, got {bias}")


def _refuse_unbuilt_sampling(options: wire.SamplingOptions) -> None:
    if options.frequency_penalty:
        raise _unbuilt("sampling.frequency_penalty")
    if options.presence_penalty:
        raise _unbuilt("sampling.presence_penalty")
    if options.HasField("repetition_penalty") and options.repetition_penalty != 1:
        raise _unbuilt("sampling.repetition_penalty")
    if options.HasField("dry"):
        raise _unbuilt("sampling.dry")
    if options.logit_bias:
        raise _unbuilt("sampling.logit_bias")
    if options.allowed_token_ids:
        raise _unbuilt("sampling.allowed_token_ids")


def _refuse_unbuilt(spec: wire.GenerationSpec | wire.ChatSpec) -> None:
    for field in ("logprobs", "prompt_logprobs"):
        if spec.response.HasField(field):
            raise _unbuilt(f"response.{field}")


def _default_true(options: wire.ResponseOptions, field: str) -> bool:
    return bool(getattr(options, field)) if options.HasField(field) else True  # type: ignore[arg-type]


def _unbuilt(field: str) -> Unimplemented:
    return Unimplemented(f"{field} is in the contract, but this server does not have it yet; leave it unset")

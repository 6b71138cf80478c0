"""Wire to domain and back, for text generation; what the engine cannot do yet is refused rather than ignored."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire

from narthex_server.engine.request import FinishReason, Sampling, Usage
from narthex_server.errors import InvalidRequest, Unimplemented, Violation
from narthex_server.text.assets import GenerationDefaults
from narthex_server.text.messages import Message, ToolCall, ToolSpec

ROLES: Mapping[int, str] = MappingProxyType(
    {
        wire.ROLE_SYSTEM: "system",
        wire.ROLE_USER: "user",
        wire.ROLE_ASSISTANT: "assistant",
        wire.ROLE_TOOL: "tool",
    }
)
REASONS: Mapping[FinishReason, common.FinishReason] = MappingProxyType(
    {
        FinishReason.STOP: common.FINISH_REASON_STOP,
        FinishReason.LENGTH: common.FINISH_REASON_LENGTH,
        FinishReason.CANCELLED: common.FINISH_REASON_CANCELLED,
    }
)
MOST_STOPS = 16


def sampling_from(options: wire.SamplingOptions, defaults: GenerationDefaults) -> Sampling:
    """The wire's values, else the model's own, else ours. Raises InvalidRequest with every field at fault."""

    def value(name: str, ours: float) -> float:
        if options.HasField(name):  # type: ignore[arg-type]
            return float(getattr(options, name))
        own = getattr(defaults, name)
        return ours if own is None else own

    sampling = Sampling(
        temperature=value("temperature", 1.0),
        top_k=int(value("top_k", 0)),
        top_p=value("top_p", 1.0),
        min_p=value("min_p", 0.0),
        seed=options.seed if options.HasField("seed") else None,
    )
    refuse([*sampling.validate("sampling"), *_not_finite(options)])
    _refuse_unbuilt_sampling(options)
    return sampling


def check_stopping(options: wire.StoppingOptions) -> None:
    """Raises InvalidRequest with every field at fault, Unimplemented for what is not built yet."""
    violations = []
    if options.HasField("max_tokens") and options.max_tokens < 1:
        violations.append(Violation("stopping.max_tokens", "must be at least 1"))
    if len(options.stop) > MOST_STOPS:
        violations.append(Violation("stopping.stop", f"has {len(options.stop)} strings; at most {MOST_STOPS} fit"))
    if not all(options.stop):
        violations.append(Violation("stopping.stop", "must not hold an empty string"))
    refuse(violations)
    if options.min_tokens:
        raise _unbuilt("stopping.min_tokens")


def check_response(options: wire.ResponseOptions) -> None:
    for field in ("logprobs", "prompt_logprobs"):
        if options.HasField(field):  # type: ignore[arg-type]
            raise _unbuilt(f"response.{field}")


def check_extras(spec: wire.GenerationSpec | wire.ChatSpec) -> None:
    """What both kinds of generation have in the contract and not yet in the engine."""
    if spec.HasField("constraint"):
        raise _unbuilt("constraint")
    if spec.adapters:
        raise _unbuilt("adapters")


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
        found.append(ToolSpec(tool.name, tool.description, parameters.decode()))
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


def usage_to_wire(usage: Usage) -> common.Usage:
    return common.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
    )


def refuse(violations: Sequence[Violation]) -> None:
    """Raises InvalidRequest that names all of them, if there are any."""
    if violations:
        text = "; ".join(f"{violation.field} {violation.description}" for violation in violations)
        raise InvalidRequest(text, violations=violations)


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
        if options.HasField(name) and not math.isfinite(value := getattr(options, name)):  # type: ignore[arg-type]
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


def _unbuilt(field: str) -> Unimplemented:
    return Unimplemented(f"{field} is in the contract, but this server does not have it yet; leave it unset")

"""What the chat and generate tools share: options by OpenAI's names, and a pipeline's events as a call's."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import orjson

from narthex_server.engine.request import AdapterUse
from narthex_server.engine.sampling.logprobs import MOST_CANDIDATES
from narthex_server.pipelines.events import ChatEvent, Finished, GenerateEvent, ReasoningDelta, TokenLogprob
from narthex_server.pipelines.events import TextDelta as TextPiece
from narthex_server.pipelines.request import SamplingOptions, Scoring, StoppingOptions
from narthex_server.text.constraint import Constraint, JsonSchema, Regex
from narthex_server.tools.tool import TextDelta, ToolEvent, ToolResult

OPTIONS: Mapping[str, Any] = {
    "model": {"type": "string", "description": "Which model; the default one where there is none given"},
    "max_tokens": {"type": "integer", "minimum": 1, "description": "At most so many new tokens"},
    "temperature": {"type": "number", "minimum": 0, "maximum": 2, "description": "0 takes the likeliest token"},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"type": "integer", "minimum": 0, "description": "0 is off"},
    "min_p": {"type": "number", "minimum": 0, "maximum": 1},
    "seed": {
        "type": "integer", "minimum": 0, "maximum": 2**64 - 1, "description": "The same seed gives the same text"
    },
    "frequency_penalty": {
        "type": "number", "minimum": -2, "maximum": 2,
        "description": "Against tokens of the answer so far, for each time that they occurred",
    },
    "presence_penalty": {
        "type": "number", "minimum": -2, "maximum": 2,
        "description": "Against tokens of the answer so far, however often they occurred",
    },
    "repetition_penalty": {
        "type": "number", "minimum": 0.01, "maximum": 100,
        "description": "Above 1 against all tokens that occurred, those of the prompt included; 1 is off",
    },
    "min_tokens": {"type": "integer", "minimum": 0, "description": "At least so many new tokens"},
    "logprobs": {
        "type": "integer", "minimum": 0, "maximum": MOST_CANDIDATES,
        "description": "Give the log probability of each new token, and so many of the likeliest ones in its place",
    },
    "stop": {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": 16}],
        "description": "Text that ends the answer, which is not part of it",
    },
    "adapter": {"type": "string", "description": "A loaded adapter (LoRA) to answer with"},
    "response_format": {
        "description": "What the answer looks like: any text, any JSON object, JSON that fits a schema, or a regex",
        "oneOf": [
            {"type": "object", "properties": {"type": {"enum": ["text", "json_object"]}}, "required": ["type"]},
            {
                "type": "object",
                "properties": {
                    "type": {"const": "json_schema"},
                    "json_schema": {
                        "type": "object",
                        "properties": {"name": {"type": "string"}, "schema": {"type": "object"}},
                        "required": ["schema"],
                    },
                },
                "required": ["type", "json_schema"],
            },
            {
                "type": "object",
                "properties": {"type": {"const": "regex"}, "regex": {"type": "string"}},
                "required": ["type", "regex"],
            },
        ],
    },
}  # fmt: skip

_COUNT = {"type": "integer"}
_TOKEN = {
    "token": {"type": "string"},
    "bytes": {"type": "array", "items": {"type": "integer"}},
    "logprob": {"type": "number"},
}
_LOGPROB = {"type": "object", "properties": _TOKEN, "required": [*_TOKEN]}
_POSITION = {
    "type": "object",
    "properties": {**_TOKEN, "top_logprobs": {"type": "array", "items": _LOGPROB}},
    "required": [*_TOKEN, "top_logprobs"],
}
OUTPUT_SCHEMA = orjson.dumps(
    {
        "type": "object",
        "properties": {
            "text": {"type": "string"},
            "reasoning": {"type": "string"},
            "model": {"type": "string"},
            "finish_reason": {"type": "string"},
            "usage": {
                "type": "object",
                "properties": {"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT},
                "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
            },
            "logprobs": {"type": "array", "items": _POSITION},
        },
        "required": ["text", "model", "finish_reason", "usage"],
    }
)
ANNOTATIONS = orjson.dumps({"readOnlyHint": True, "openWorldHint": False})


_SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "seed", "frequency_penalty", "presence_penalty", "repetition_penalty",
)  # fmt: skip


def schema_of(own: Mapping[str, Any], required: list[str]) -> bytes:
    """The input schema of a tool with properties of its `own` before the common options."""
    return orjson.dumps(
        {"type": "object", "properties": {**own, **OPTIONS}, "required": required, "additionalProperties": False}
    )


def sampling(arguments: Mapping[str, Any]) -> SamplingOptions:
    return SamplingOptions(**{name: arguments[name] for name in _SAMPLING if name in arguments})


def stopping(arguments: Mapping[str, Any]) -> StoppingOptions:
    stop = arguments.get("stop", ())
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    return StoppingOptions(arguments.get("max_tokens"), stops, min_tokens=arguments.get("min_tokens", 0))


def scoring(arguments: Mapping[str, Any]) -> Scoring:
    return Scoring(arguments.get("logprobs"))


def adapters(arguments: Mapping[str, Any]) -> tuple[AdapterUse, ...]:
    return (AdapterUse(arguments["adapter"]),) if "adapter" in arguments else ()


def constraint(arguments: Mapping[str, Any]) -> Constraint | None:
    match arguments.get("response_format"):
        case {"type": "json_object"}:
            return JsonSchema('{"type": "object"}')
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return JsonSchema(orjson.dumps(schema).decode())
        case {"type": "regex", "regex": str(pattern)}:
            return Regex(pattern)
    return None


async def as_call(
    model: str, events: AsyncGenerator[ChatEvent] | AsyncGenerator[GenerateEvent]
) -> AsyncGenerator[ToolEvent]:
    """Text as it comes, then the result: the text whole, and what it took as structured content."""
    said: list[str] = []
    thought: list[str] = []
    async with aclosing(events) as pieces:
        async for piece in pieces:
            match piece:
                case TextPiece(text) if text:
                    said.append(text)
                    yield TextDelta(text)
                case ReasoningDelta(text):
                    thought.append(text)
                case Finished():
                    yield _result(model, "".join(said), "".join(thought), piece)


def _result(model: str, text: str, reasoning: str, end: Finished) -> ToolResult:
    usage = {
        "prompt_tokens": end.usage.prompt_tokens,
        "completion_tokens": end.usage.completion_tokens,
        "total_tokens": end.usage.prompt_tokens + end.usage.completion_tokens,
    }
    facts: dict[str, Any] = {"text": text, "model": model, "finish_reason": end.reason.value, "usage": usage}
    if end.logprobs:
        facts["logprobs"] = [
            {**_fields(position.chosen), "top_logprobs": [_fields(token) for token in position.candidates]}
            for position in end.logprobs
        ]
    if reasoning:
        facts["reasoning"] = reasoning
    return ToolResult(orjson.dumps([{"type": "text", "text": text}]), orjson.dumps(facts))


def _fields(token: TokenLogprob) -> dict[str, Any]:
    spelled = token.data.decode("utf-8", "replace")
    return {"token": spelled, "bytes": [*token.data], "logprob": token.logprob}

"""What a request is in OpenAI's API, or why it is none."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from narthex_server.engine.request import Sampling
from narthex_server.errors import InvalidRequest, Violation
from narthex_server.pipelines.embed import MAX_INPUTS, EmbedRequest
from narthex_server.pipelines.remote.facts import Facts
from narthex_server.pipelines.request import (
    ChatRequest,
    GenerateRequest,
    SamplingOptions,
    StoppingOptions,
    check_choice,
    refuse,
)
from narthex_server.text.calls.json_text import new_id
from narthex_server.text.constraint import Choice, Constraint, JsonSchema, Regex, read_schema
from narthex_server.text.messages import Message, ToolSpec

_STREAM = {"stream": True, "stream_options": {"include_usage": True}}
_VLLM = "vllm"
_SAMPLING = (
    "temperature", "top_p", "seed", "frequency_penalty", "presence_penalty",
    "top_k", "min_p", "repetition_penalty",  # which not every engine knows; sent only where they are asked for
)  # fmt: skip


def chat_body(request: ChatRequest, name: str, facts: Facts) -> dict[str, Any]:
    """The body of `chat/completions`. Errors: InvalidRequest that names the fields that cannot be asked of it."""
    found = _unsupported(request)
    if request.max_thoughts is not None:
        found.append(Violation("reasoning.max_tokens", "tokens of thoughts are not counted there"))
    _check(name, found)
    if not request.messages:
        refuse((Violation("messages", "must have at least one"),))
    check_choice(request)
    body: dict[str, Any] = {"model": facts.model, "messages": [*map(message_json, request.messages)], **_STREAM}
    body |= _options(request)
    if request.tools and request.tool_choice.mode != "none":
        body["tools"] = [*map(tool_json, request.tools)]
        if request.tool_choice.name:
            body["tool_choice"] = {"type": "function", "function": {"name": request.tool_choice.name}}
        elif request.tool_choice.forced:
            body["tool_choice"] = "required"
    if request.template_options:
        body["chat_template_kwargs"] = dict(request.template_options)
    if isinstance(request.constraint, JsonSchema):
        schema = read_schema(request.constraint.rule, "constraint.json_schema")
        described = {"name": "answer", "strict": True, "schema": schema}
        body["response_format"] = {"type": "json_schema", "json_schema": described}
    elif request.constraint is not None:
        body["structured_outputs"] = _structured(request.constraint, name, facts)
    return body


def completion_body(request: GenerateRequest, name: str, facts: Facts) -> dict[str, Any]:
    """The body of `completions`. Errors: as of `chat_body`."""
    found = _unsupported(request)
    if not isinstance(request.prompt, str):
        found.append(Violation("token_ids", "its vocabulary is not known here; send text"))
    _check(name, found)
    body = {"model": facts.model, "prompt": request.prompt, **_STREAM} | _options(request)
    if request.constraint is not None:
        body["structured_outputs"] = _structured(request.constraint, name, facts)
    return body


def embedding_body(request: EmbedRequest, name: str, facts: Facts) -> dict[str, Any]:
    """The body of `embeddings`. Errors: as of `chat_body`."""
    found = []
    if not 1 <= len(request.inputs) <= MAX_INPUTS:
        found.append(Violation("inputs", f"must be 1 to {MAX_INPUTS}, got {len(request.inputs)}"))
    found += [Violation(f"inputs[{index}]", "is empty") for index, one in enumerate(request.inputs) if not one]
    refuse(found)
    if any(not isinstance(one, str) for one in request.inputs):
        found.append(Violation("inputs.token_ids", "its vocabulary is not known here; send texts"))
    if request.pooling is not None:
        found.append(Violation("pooling", "is the engine's own; leave it unset"))
    if request.truncate:
        found.append(Violation("truncate", "cannot be asked for; shorten the texts"))
    if not request.normalize:
        found.append(Violation("normalize", "vectors may be scaled already; leave it unset"))
    _check(name, found)
    texts = [f"{request.instruction}{one}" for one in request.inputs]
    return {"model": facts.model, "input": texts, "encoding_format": "float"}


def message_json(message: Message) -> dict[str, Any]:
    """A turn of a conversation in the API's form."""
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": call.id or new_id(),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        made["tool_call_id"] = message.tool_call_id
    if message.name:
        made["name"] = message.name
    if message.reasoning:
        made["reasoning_content"] = message.reasoning
    return made


def tool_json(tool: ToolSpec) -> dict[str, Any]:
    """A tool in the API's form."""
    parameters: Mapping[str, Any] = json.loads(tool.parameters or "{}")
    function: dict[str, Any] = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function | ({"strict": True} if tool.strict else {})}


def _unsupported(request: ChatRequest | GenerateRequest) -> list[Violation]:
    """What both kinds of requests may ask for that the API has no way to say."""
    sampling, stopping, scoring = request.sampling, request.stopping, request.scoring
    ids = "its token ids are not known here"
    asked = (
        *((field, True, ids) for field in request.wanted_ids),
        ("sampling.dry", sampling.dry is not None, "is not part of its API"),
        ("sampling.allowed_token_ids", bool(sampling.allowed_token_ids), ids),
        ("stopping.stop_token_ids", bool(stopping.stop_token_ids), ids),
        ("stopping.include_stop", stopping.include_stop, "it never includes what ended the text"),
        ("adapters", bool(request.adapters), "they belong to the server that runs it; serve each as a model there"),
        ("response.logprobs", scoring.completion is not None, ids),
        ("response.prompt_logprobs", scoring.prompt is not None, ids),
    )
    return [Violation(field, what) for field, given, what in asked if given]


def _options(request: ChatRequest | GenerateRequest) -> dict[str, Any]:
    sampling, stopping = request.sampling, request.stopping
    refuse((*stopping.validate(), *_drawn(sampling).validate()))
    body: dict[str, Any] = {name: getattr(sampling, name) for name in _SAMPLING if getattr(sampling, name) is not None}
    if sampling.repetition_penalty is not None:
        body["repeat_penalty"] = sampling.repetition_penalty  # llama-server's name for it
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    return body | _ends(stopping) | ({} if request.skip_special else {"skip_special_tokens": False})


def _ends(stopping: StoppingOptions) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if stopping.max_tokens is not None:
        body["max_tokens"] = stopping.max_tokens
    if stopping.stop:
        body["stop"] = [*stopping.stop]
    if stopping.min_tokens:
        body["min_tokens"] = stopping.min_tokens
    if stopping.ignore_eos:
        body["ignore_eos"] = True
    return body


def _drawn(options: SamplingOptions) -> Sampling:
    """What is given, to be checked by the rules of this server."""
    given = {name: getattr(options, name) for name in _SAMPLING if getattr(options, name) is not None}
    return Sampling(**given, logit_bias=options.logit_bias)


def _structured(constraint: Constraint, name: str, facts: Facts) -> dict[str, Any]:
    """A rule as vLLM has it. Errors: InvalidRequest where the engine is not known to follow it."""
    if facts.owner == _VLLM:
        match constraint:
            case JsonSchema(rule):
                return {"json": read_schema(rule, "constraint.json_schema")}
            case Regex(rule):
                return {"regex": rule}
            case Choice(options):
                constraint.lark()  # refuses empty ones
                return {"choice": [*options]}
    what = "this engine is not known to follow it; a chat with a JSON Schema is the rule that most know"
    _refuse(name, [Violation(f"constraint.{constraint.field}", what)])


def _check(name: str, violations: Sequence[Violation]) -> None:
    if violations:
        _refuse(name, violations)


def _refuse(name: str, violations: Sequence[Violation]) -> NoReturn:
    """Raises InvalidRequest that says that the model is remote."""
    what = "; ".join(f"{violation.field} ({violation.description})" for violation in violations)
    raise InvalidRequest(
        f"model {name!r} is remote, and this cannot be asked of it: {what}",
        reason="REMOTE_MODEL",
        metadata={"model": name},
        violations=violations,
    )

"""A request of the Messages API as the contract's work."""

import json
from dataclasses import dataclass

import orjson
from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.adapters import adapters
from narthex_bridge.faces.anthropic import conversation, tools
from narthex_bridge.faces.anthropic.tools import Upstreams
from narthex_bridge.faces.body import Fields
from narthex_bridge.faces.constraint import constraint
from narthex_bridge.faces.policy import settle
from narthex_bridge.faces.reasoning import effort_of, reasoning
from narthex_bridge.faces.sampling import sampling
from narthex_bridge.http.refusal import Headers

# What tells Anthropic's service how to store, bill, cache, route or trim, and changes no word here.
_IGNORED = frozenset(
    {
        "anthropic_version", "betas", "billing_policy", "cache_control", "context_management", "diagnostics",
        "inference_geo", "metadata", "service_tier", "speed", "user_profile_id", "workspace_id",
    }
)  # fmt: skip
# What would change the answer, and what to do instead.
_REFUSED = {
    "compaction": "send the conversation as it is to be read",
    "container": "narthex runs no code for a model; use a forwarded tool",
    "fallbacks": "name one model",
    "thread": "send the whole conversation in messages",
}
_DEFAULT_MODEL = "default"
# What templates are told of ReasoningOptions.enabled, which counting has not.
_THINKING_MARKS = {"enabled": b'{"enable_thinking":true}', "disabled": b'{"enable_thinking":false}'}


@dataclass(frozen=True, slots=True)
class MessageRequest:
    """What is asked for, and how it is to be told."""

    spec: wire.ChatSpec
    stream: bool
    own_tools: frozenset[str]
    single_call: bool
    shows_thoughts: bool
    headers: Headers


def read(request: Fields, upstreams: Upstreams) -> MessageRequest:
    """Raises Refusal for what is wrong and for what has no meaning here; see docs/compatibility.md."""
    spec = wire.ChatSpec(model=model(request), messages=conversation.turns(request), tools=tools.own(request))
    chosen, single = tools.choice(request)
    if chosen is not None:
        spec.tool_choice.CopyFrom(chosen)
    _execution(spec, request, upstreams)
    server_runs = spec.tool_execution == wire.TOOL_EXECUTION_SERVER
    if single and server_runs:
        spec.parallel_tool_calls, single = False, False
    _sampling(spec, request)
    spec.adapters.extend(adapters(request))
    spec.stopping.max_tokens = _max_tokens(request)
    spec.stopping.stop.extend(request.texts("stop_sequences"))
    shows = _thinking(spec, request)
    _form(spec, request)
    stream = bool(request.flag("stream"))
    own = frozenset(tool.name for tool in spec.tools)
    return MessageRequest(spec, stream, own, single, shows, _rest(request))


def count(request: Fields) -> wire.CountTokensRequest:
    """The tokens of the same conversation and tools. Raises Refusal."""
    chat = wire.ChatInput(messages=conversation.turns(request), tools=tools.own(request))
    thinking = (request.object("thinking") or Fields({})).text("type")
    if thinking in _THINKING_MARKS:
        chat.template_arguments = _THINKING_MARKS[thinking]
    return wire.CountTokensRequest(model=model(request), chat=chat)


def model(request: Fields) -> str:
    """The model's name; `default` is the server's default."""
    name = request.needed_text("model")
    return "" if name == _DEFAULT_MODEL else name


def _execution(spec: wire.ChatSpec, request: Fields, upstreams: Upstreams) -> None:
    execution = request.one_of("tool_execution", "client", "server")
    named = tools.catalog(request, upstreams)
    if upstreams.tools and not named:
        raise tools.nothing_enabled(request)
    if named and execution == "client":
        raise request.fault("tool_execution", 'must be "server": the tools of the catalog run there')
    if execution == "server" or named:
        spec.tool_execution = wire.TOOL_EXECUTION_SERVER
        spec.catalog_tools.extend(named)
    if (rounds := request.whole("max_tool_rounds")) is not None:
        spec.max_tool_rounds = rounds


def _sampling(spec: wire.ChatSpec, request: Fields) -> None:
    spec.sampling.CopyFrom(sampling(request))
    for name in ("temperature", "top_p"):
        if not 0 <= getattr(spec.sampling, name) <= 1:
            raise request.fault(name, "must be between 0 and 1")


def _max_tokens(request: Fields) -> int:
    most = request.whole("max_tokens")
    if most is None:
        raise request.fault("max_tokens", "is missing")
    if most == 0:
        raise request.fault("max_tokens", "must be at least 1")
    return most


def _thinking(spec: wire.ChatSpec, request: Fields) -> bool:
    """Sets how much the model thinks; returns whether its thoughts are shown."""
    options, spec.template_arguments = reasoning(request, effort_of(request, "reasoning_effort"))
    if options is not None:
        spec.reasoning.CopyFrom(options)
    fields = request.object("thinking")
    if fields is None:
        return True
    if options is not None:
        raise request.fault("thinking", "and mistral.rs's or vLLM's members for it are given: give one")
    match fields.one_of("type", "enabled", "disabled", "adaptive"):
        case "enabled":
            budget = fields.whole("budget_tokens")
            if budget is None:
                raise fields.fault("budget_tokens", "is missing")
            if not 1 <= budget < spec.stopping.max_tokens:
                raise fields.fault("budget_tokens", "must be at least 1 and less than max_tokens, in which it counts")
            spec.reasoning.enabled, spec.reasoning.max_tokens = True, budget
        case "disabled":
            spec.reasoning.enabled = False
        case "adaptive":
            pass  # the model decides, as its template does by default
        case _:
            raise fields.fault("type", "is missing")
    return fields.one_of("display", "summarized", "omitted") != "omitted"


def _form(spec: wire.ChatSpec, request: Fields) -> None:
    """What the text has to look like, and the effort, which is for templates that know such levels."""
    output = request.object("output_config") or Fields({})
    effort = output.one_of("effort", "low", "medium", "high", "xhigh", "max")
    if effort is not None and not spec.template_arguments:
        spec.template_arguments = orjson.dumps({"reasoning_effort": effort})
    if (rule := constraint(request)) is not None:
        spec.constraint.CopyFrom(rule)
    form = output.object("format") or request.object("output_format")
    if form is None:
        return
    if rule is not None:
        raise request.fault("output_config.format", "and another rule for the text are given; at most one can be")
    if (kind := form.needed_text("type")) != "json_schema":
        raise form.fault("type", f'must be "json_schema", got {json.dumps(kind)}')
    if not (schema := form.json("schema")):
        raise form.fault("schema", "is missing")
    spec.constraint.json_schema = schema


def _rest(request: Fields) -> Headers:
    """Refuses what would change the answer; returns a header that names the members that nobody knows."""
    for name in _IGNORED:
        request.any(name)
    for name, instead in _REFUSED.items():
        if request.any(name) not in (None, [], {}):
            raise request.fault(name, f"is not supported here: {instead}")
    return settle(request)

"""Domain to wire, for text generation."""

from collections.abc import Mapping
from types import MappingProxyType

from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire

from narthex_server.agent.events import AgentEvent, ToolActivity, ToolCallResult
from narthex_server.agent.sessions.session import Summary
from narthex_server.pipelines.events import (
    Budget,
    Finished,
    FinishReason,
    PositionLogprobs,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallStarted,
)
from narthex_server.services.requests import ROLES
from narthex_server.services.tool import event_to_wire as tool_event_to_wire
from narthex_server.services.tool import result_to_wire
from narthex_server.text.messages import Message, ToolCall
from narthex_server.tools.tool import InputRequired, Log, Progress

_REASONS: Mapping[FinishReason, common.FinishReason.ValueType] = MappingProxyType(
    {
        FinishReason.STOP: common.FINISH_REASON_STOP,
        FinishReason.LENGTH: common.FINISH_REASON_LENGTH,
        FinishReason.TOOL_CALLS: common.FINISH_REASON_TOOL_CALLS,
        FinishReason.TOOL_ROUNDS: common.FINISH_REASON_TOOL_ROUNDS,
        FinishReason.CANCELLED: common.FINISH_REASON_CANCELLED,
        FinishReason.BUDGET: common.FINISH_REASON_BUDGET,
        FinishReason.REPETITION: common.FINISH_REASON_REPETITION,
    }
)
_BUDGETS: Mapping[Budget, common.Budget.ValueType] = MappingProxyType(
    {
        Budget.SECONDS: common.BUDGET_SECONDS,
        Budget.GENERATED_TOKENS: common.BUDGET_GENERATED_TOKENS,
        Budget.TOTAL_TOKENS: common.BUDGET_TOTAL_TOKENS,
        Budget.TOOL_CALLS: common.BUDGET_TOOL_CALLS,
        Budget.RESULT_BYTES: common.BUDGET_RESULT_BYTES,
    }
)


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
    event: AgentEvent, request_id: str, model: str, response: wire.ResponseOptions, index: int = 0
) -> wire.ChatStreamResponse:
    made = wire.ChatStreamResponse(round=event.round, index=index)
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
            match activity:
                case Progress():
                    made.tool_activity.progress.CopyFrom(reported.progress)
                case InputRequired():
                    made.tool_activity.input_required.CopyFrom(reported.input_required)
                case Log():
                    made.tool_activity.log.CopyFrom(reported.log)
        case ToolCallResult(call_id, name, result, text):
            made.tool_result.tool_call_id, made.tool_result.name = call_id, name
            made.tool_result.text = text.encode("utf-8", "replace").decode()
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
    if response.HasField("prompt_logprobs"):
        prompt.logprobs.add()  # nothing says how probable the first is
        prompt.logprobs.extend(map(logprobs_to_wire, started.logprobs))


def session_to_wire(summary: Summary) -> wire.Session:
    return wire.Session(
        id=summary.id,
        model=summary.model,
        message_count=summary.count,
        size_bytes=summary.size,
        created_ms=int(summary.created * 1000),
        used_ms=int(summary.used * 1000),
        unfinished=summary.unfinished,
    )


def logprobs_to_wire(position: PositionLogprobs) -> common.PositionLogprobs:
    return common.PositionLogprobs(
        chosen=_logprob(position.chosen), candidates=[_logprob(candidate) for candidate in position.candidates]
    )


def wants_text(response: wire.ResponseOptions) -> bool:
    return response.text if response.HasField("text") else True


def delta_to_wire(delta: TextDelta, response: wire.ResponseOptions) -> common.TextDelta:
    return common.TextDelta(
        text=delta.text if wants_text(response) else "",
        token_ids=delta.token_ids if response.token_ids else (),
        logprobs=map(logprobs_to_wire, delta.logprobs),
    )


def finished_to_wire(finished: Finished) -> common.Finished:
    usage = finished.usage
    made = common.Finished(
        finish_reason=_REASONS[finished.reason],
        usage=common.Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            speculated_tokens=usage.speculated_tokens,
            accepted_tokens=usage.accepted_tokens,
            reasoning_tokens=usage.reasoning_tokens,
        ),
    )
    if finished.budget is not None:
        made.budget = _BUDGETS[finished.budget]
    if finished.stop_string is not None:
        made.stop_string = finished.stop_string
    elif finished.stop_token_id is not None:
        made.stop_token_id = finished.stop_token_id
    return made


def fill_end(
    made: wire.GenerateResponse | wire.Completion | wire.ChatResponse | wire.ChatCompletion,
    finished: Finished,
    response: wire.ResponseOptions,
) -> None:
    """What the end of a completion says of it alone: why, its tokens and their probabilities, but not the usage."""
    made.finished.CopyFrom(finished_to_wire(finished))
    made.finished.ClearField("usage")
    made.token_ids.extend(finished.token_ids if response.token_ids else ())
    made.logprobs.extend(map(logprobs_to_wire, finished.logprobs))


def _logprob(token: TokenLogprob) -> common.TokenLogprob:
    return common.TokenLogprob(token_id=token.token, token=token.data, logprob=token.logprob, rank=token.rank)

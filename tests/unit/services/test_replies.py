"""Domain to wire: everything has its place."""

import pytest
from narthex.v1 import generation_pb2 as wire
from narthex_server.agent.events import AgentEvent, ToolActivity, ToolCallResult
from narthex_server.pipelines.events import (
    Finished,
    FinishReason,
    PositionLogprobs,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallStarted,
    Usage,
)
from narthex_server.services import replies
from narthex_server.text.messages import ToolCall
from narthex_server.tools.tool import Log, Progress, ToolResult


def test_log_probabilities_have_their_place_on_the_wire():
    token = TokenLogprob(5, b"\xf0", -0.5, 1)
    delta = replies.delta_to_wire(TextDelta("", (5,), (PositionLogprobs(token, (token,)),)), wire.ResponseOptions())
    (position,) = delta.logprobs
    assert position.chosen == position.candidates[0]
    assert (position.chosen.token_id, position.chosen.token, position.chosen.rank) == (5, b"\xf0", 1)
    made = replies.started_to_wire(
        Started((4, 5), (PositionLogprobs(token),)), "r", "m", wire.ResponseOptions(prompt_logprobs=0)
    )
    assert [one.HasField("chosen") for one in made.prompt.logprobs] == [False, True]


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (Started((1, 2)), "started"),
        (TextDelta("x"), "text_delta"),
        (ReasoningDelta("x"), "reasoning_delta"),
        (ToolCallStarted("1", "t"), "tool_call_started"),
        (ToolCall("1", "t", "{}"), "tool_call"),
        (ToolActivity("1", Progress(1, 2, "half")), "tool_activity"),
        (ToolActivity("1", Log("warning", "here", b'"x"')), "tool_activity"),
        (ToolCallResult("1", "t", ToolResult(b"[]"), ""), "tool_result"),
        (Finished(FinishReason.TOOL_ROUNDS, Usage(3, 2, 1)), "finished"),
    ],
)
def test_every_event_of_the_agent_has_its_place_on_the_wire(event, kind):
    made = replies.agent_event_to_wire(AgentEvent(2, event), "r", "m", wire.ResponseOptions())
    assert made.WhichOneof("event") == kind
    assert made.round == (0 if kind == "started" else 2)


@pytest.mark.parametrize("reason", FinishReason)
def test_every_finish_reason_has_its_number(reason):
    assert replies.finished_to_wire(Finished(reason, Usage())).finish_reason != 0


def test_usage_counts_guesses_too():
    usage = Usage(3, 2, 1, speculated_tokens=8, accepted_tokens=5) + Usage(1, 1, 0, speculated_tokens=1)
    made = replies.finished_to_wire(Finished(FinishReason.STOP, usage)).usage
    assert (made.speculated_tokens, made.accepted_tokens) == (9, 5)


def test_thoughts_are_counted_on_the_wire():
    made = replies.finished_to_wire(Finished(FinishReason.STOP, Usage(3, 9, 1, 5)))
    assert made.usage.reasoning_tokens == 5

"""What engines stream, in their dialects, and what becomes of it."""

from typing import Any

import pytest
from narthex_server.errors import ContextOverflow, NarthexError, Unavailable
from narthex_server.pipelines.events import (
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallStarted,
    Usage,
)
from narthex_server.pipelines.remote.calls import MOST_CALLS
from narthex_server.pipelines.remote.refusals import Refusals
from narthex_server.pipelines.remote.turn import Turn
from narthex_server.text.messages import ToolCall

REFUSALS = Refusals("big")


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def piece(index: int | None = None, call_id: str | None = None, **function: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"type": "function", "function": function}
    return made | ({} if index is None else {"index": index}) | ({} if call_id is None else {"id": call_id})


def events(*chunks: Any, done: bool = True, stops: tuple[str, ...] = ()) -> list[Any]:
    turn = Turn(REFUSALS, frozenset({"add", "get"}), stops)
    return [*(event for chunk in chunks for event in turn.feed(chunk)), *turn.finish(done)]


def calls(*pieces: list[dict[str, Any]], finish: str = "tool_calls") -> list[Any]:
    return events(*(delta(tool_calls=some) for some in pieces), delta(finish))


def test_text_thoughts_and_usage_of_vllm():
    counted = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}
    counted["completion_tokens_details"] = {"reasoning_tokens": 1}
    found = events(
        delta(role="assistant", content=""),
        delta(reasoning_content="Hm", reasoning="Hm"),
        delta(content="Hi"),
        delta("stop", content=""),
        {"choices": [], "usage": counted},
    )
    assert found == [
        ReasoningDelta("Hm"), TextDelta("Hi"), Finished(FinishReason.STOP, Usage(9, 3, 8, reasoning_tokens=1)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("stop", FinishReason.STOP), ("length", FinishReason.LENGTH), ("content_filter", FinishReason.STOP),
        ("tool_calls", FinishReason.STOP), ("abort", FinishReason.CANCELLED), ("new thing", FinishReason.STOP),
    ],
)  # fmt: skip
def test_reasons_are_mapped(told, reason):
    assert events(delta(told)) == [Finished(reason, Usage())]


def test_a_whole_message_and_a_completion_are_read_too():
    message = {"role": "assistant", "content": [{"type": "text", "text": "Hi"}], "reasoning": "Hm"}
    assert events({"choices": [{"message": message, "finish_reason": "stop"}]})[:2] == [
        ReasoningDelta("Hm"), TextDelta("Hi"),
    ]  # fmt: skip
    text = {"choices": [{"index": 0, "text": "go", "finish_reason": "stop", "stop_reason": "END"}]}
    assert events(text, stops=("END",)) == [TextDelta("go"), Finished(FinishReason.STOP, Usage(), "END")]
    assert events(text)[1].stop_string is None, "only what the caller asked for"


def test_calls_in_pieces_belong_together_by_index():
    found = calls(
        [piece(0, "a", name="ad", arguments="")],
        [piece(0, name="d")],
        [piece(0, arguments='{"x"'), piece(1, "b", name="get", arguments="{}")],
        [piece(0, arguments=": 1}")],
    )
    assert found == [
        ToolCallStarted("a", "add"), ToolCallStarted("b", "get"), ToolCall("a", "add", '{"x": 1}'),
        ToolCall("b", "get", "{}"), Finished(FinishReason.TOOL_CALLS, Usage()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "pieces",
    [
        [[piece(0, "a", name="add", arguments={"x": 1})]],  # arguments as an object
        [[piece(0, "a", name="add", arguments='{"x":')], [piece(0, "a", name="add", arguments="1}")]],  # all repeated
        [[piece(None, "a", name="add", arguments='{"x":1}')]],  # whole, without an index
        [[piece(None, "a", name="add")], [piece(arguments='{"x":')], [piece(arguments="1}")]],
    ],
)
def test_dialects_of_a_call_are_one_call(pieces):
    for finish in ("tool_calls", "stop"):
        found = calls(*pieces, finish=finish)
        assert found[0] == ToolCallStarted("a", "add") and found[-1].reason is FinishReason.TOOL_CALLS
        assert found[1].arguments.replace(" ", "") == '{"x":1}' and len(found) == 3


@pytest.mark.parametrize("call_id", [None, "", "same"])
def test_whole_calls_without_index_or_usable_ids_get_ids_of_their_own(call_id):
    one, two = piece(None, call_id, name="add", arguments="{}"), piece(None, None, name="get", arguments="{}")
    found = [event for event in calls([one, two]) if isinstance(event, ToolCall)]
    assert [call.name for call in found] == ["add", "get"] and len({call.id for call in found} - {""}) == 2
    indexed = calls([piece(0, call_id, name="add", arguments="{}"), piece(1, call_id, name="add", arguments="{}")])
    assert len({event.id for event in indexed if isinstance(event, ToolCall)} - {""}) == 2


def test_a_call_of_nobodys_tool_is_told_whole_alone():
    found = calls([piece(0, "a", name="other")])
    assert found == [ToolCall("a", "other", "{}"), Finished(FinishReason.TOOL_CALLS, Usage())]


def test_a_call_that_the_limit_cut_off_is_none():
    pieces = [piece(0, "a", name="add", arguments="{}"), piece(1, "b", name="get", arguments='{"x')]
    found = calls(pieces, finish="length")
    assert [event for event in found if isinstance(event, ToolCall)] == [ToolCall("a", "add", "{}")]
    assert found[-1].reason is FinishReason.LENGTH


def test_calls_without_end_are_refused():
    with pytest.raises(Unavailable, match="more tool calls"):
        calls([piece(index, name="add") for index in range(MOST_CALLS + 1)])


def test_a_stream_needs_an_end():
    assert events(delta(content="x"), done=True)[-1].reason is FinishReason.STOP
    assert events(delta("stop"), done=False)[-1].reason is FinishReason.STOP
    with pytest.raises(Unavailable, match="broke off") as caught:
        events(delta(content="x"), done=False)
    assert caught.value.reason == "REMOTE_UNAVAILABLE"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        ({"message": "CUDA died", "code": 500}, Unavailable, "CUDA died"),
        ({"message": "the context length is 8", "code": 400}, ContextOverflow, "context length"),
        ("gone", Unavailable, "gone"),
        ({"object": "error", "code": None}, Unavailable, "failed"),
    ],
)
def test_an_error_within_the_stream_is_one(error, kind, text):
    with pytest.raises(NarthexError, match=text) as caught:
        events(delta(content="x"), {"error": error})
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    "chunk",
    [
        {}, {"choices": None}, {"choices": [None, 3, {"index": 1, "delta": {"content": "x"}}]}, delta(content=3),
        delta(tool_calls="x"), delta(tool_calls=[None, {}]), {"choices": [{"delta": []}]},
        {"usage": {"prompt_tokens": -1}},
        {"usage": 3, "choices": {}}, delta(tool_calls=[{"index": True, "function": 3}]),
    ],
)  # fmt: skip
def test_nonsense_is_nothing(chunk):
    assert events(chunk) == [Finished(FinishReason.STOP, Usage())]


def test_a_chunk_that_is_no_object_is_an_error():
    with pytest.raises(Unavailable) as caught:
        events([1])
    assert caught.value.reason == "REMOTE_BROKEN"

"""A further attempt's events beside those that are kept."""

from collections.abc import Sequence

import pytest
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire
from narthex.v1 import lot_pb2 as lot
from narthex_server.services.works.retelling import Retelling

Event = wire.GenerateStreamResponse


def started() -> Event:
    return Event(started=wire.Started(request_id="t", model="m"))


def said(text: str, *ids: int, index: int = 0) -> Event:
    return Event(text_delta=common.TextDelta(text=text, token_ids=ids), index=index)


def finished(cached: int = 0, index: int = 0) -> Event:
    usage = common.Usage(prompt_tokens=3, cached_tokens=cached)
    return Event(finished=common.Finished(finish_reason=common.FINISH_REASON_STOP, usage=usage), index=index)


def retold(kept: Sequence[Event], events: Sequence[Event]) -> list[lot.WorkEvent]:
    retelling = Retelling("generate", kept, 2)
    return [new for event in events for new in retelling.further(event)]


def of(events: Sequence[Event]) -> list[lot.WorkEvent]:
    return [lot.WorkEvent(generate=event) for event in events]


def test_without_kept_events_everything_is_new() -> None:
    events = [started(), said("ab"), finished()]
    assert retold([], events) == of(events)


@pytest.mark.parametrize(
    ("kept", "again", "new"),
    [
        ([said("ab", 1, 2)], [said("ab", 1, 2), said("c", 3)], [said("c", 3)]),
        ([said("ab", 1, 2)], [said("a", 1), said("b", 2), said("c", 3)], [said("c", 3)]),
        ([said("a", 1), said("b", 2)], [said("abc", 1, 2, 3)], [said("c", 3)]),
        ([said("ab", 1, 2)], [said("a", 1), said("bcd", 2, 3, 4)], [said("cd", 3, 4)]),
        ([said("ab", 1, 2)], [said("ab", 1, 2), said("", 3)], [said("", 3)]),
    ],
)
def test_text_goes_on_where_it_stopped_however_it_is_cut(
    kept: list[Event], again: list[Event], new: list[Event]
) -> None:
    assert retold([started(), *kept], [started(), *again, finished()]) == of([*new, finished()])


def test_completions_may_come_in_another_order_and_cost_something_else() -> None:
    kept = [started(), said("ab"), said("x", index=1), finished(0, 1)]
    again = [started(), said("x", index=1), finished(9, 1), said("a"), said("bc"), finished()]
    assert retold(kept, again) == of([said("c"), finished()])


@pytest.mark.parametrize(
    "again",
    [
        [said("ax"), finished()],
        [said("a"), finished()],
        [said("ab", 7), finished()],
        [finished()],
    ],
)
def test_what_comes_to_something_else_is_told_from_its_beginning(again: list[Event]) -> None:
    mark = lot.WorkEvent(restarted=lot.Restarted(attempt=2))
    kept = [started(), said("ab", 1, 2)]
    assert retold(kept, [started(), *again]) == [mark, *of([started(), *again])]


def test_text_that_goes_on_beyond_what_followed_it_is_something_else() -> None:
    kept = [started(), said("ab"), finished()]
    new = retold(kept, [started(), said("abc"), finished()])
    assert new == [lot.WorkEvent(restarted=lot.Restarted(attempt=2)), *of([started(), said("abc"), finished()])]


def test_rounds_of_a_chat_are_texts_of_their_own() -> None:
    def round_of(number: int, text: str) -> wire.ChatStreamResponse:
        return wire.ChatStreamResponse(text_delta=common.TextDelta(text=text), round=number)

    call = wire.ChatStreamResponse(tool_call=wire.ToolCall(id="1", name="t"), round=1)
    retelling = Retelling("chat", [round_of(1, "a"), call, round_of(2, "b")], 2)
    events = [round_of(1, "a"), call, round_of(2, "b"), round_of(2, "c")]
    assert [new for event in events for new in retelling.further(event)] == [lot.WorkEvent(chat=round_of(2, "c"))]

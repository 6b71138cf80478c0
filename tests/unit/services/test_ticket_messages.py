"""What callers say about tickets, and what they are told."""

import pytest
from google.protobuf.duration_pb2 import Duration
from narthex.v1 import common_pb2 as common
from narthex.v1 import lot_pb2 as wire
from narthex_server.errors import InvalidRequest
from narthex_server.lot.terms import Priority
from narthex_server.lot.ticket import Order, State, Ticket
from narthex_server.services.paging import mark
from narthex_server.services.ticket_messages import (
    LONGEST,
    duration_of,
    page_token,
    place_of,
    state_of,
    ticket_to_wire,
    wait_of,
)

ORDER = Order("one", "acme", b"{}", "chat", b"", b"", 1_000.25, 60.0, priority=Priority.HIGH)


def test_every_state_is_told_and_understood():
    told = {ticket_to_wire(Ticket(ORDER, state)).state for state in State}
    assert told == set(wire.TicketState.values()) - {wire.TICKET_STATE_UNSPECIFIED}
    assert {state_of(number, "states[0]") for number in told} == set(State)


def test_what_has_not_happened_yet_is_not_told():
    shown = ticket_to_wire(Ticket(ORDER), ahead=3)
    assert (shown.ahead, shown.priority, shown.submit_time.ToJsonString()) == (
        3, common.PRIORITY_INTERACTIVE, "1970-01-01T00:16:40.250Z",
    )  # fmt: skip
    assert not any(shown.HasField(field) for field in ("start_time", "end_time", "expire_time"))


def test_times_are_left_out_above_nothing_and_bounded():
    assert duration_of(wire.SubmitRequest(), "keep") is None
    assert duration_of(wire.SubmitRequest(keep=Duration(nanos=500_000_000)), "keep") == 0.5
    assert duration_of(wire.SubmitRequest(timeout=Duration(seconds=1 << 50)), "timeout") == LONGEST
    with pytest.raises(InvalidRequest, match="keep must be more than 0"):
        duration_of(wire.SubmitRequest(keep=Duration()), "keep")
    assert wait_of(wire.FetchRequest()) == wait_of(wire.FetchRequest(wait=Duration())) == 0
    with pytest.raises(InvalidRequest, match="wait must not be below 0"):
        wait_of(wire.FetchRequest(wait=Duration(seconds=-1)))


def test_a_page_goes_on_where_the_last_one_ended():
    assert place_of("") is None
    assert place_of(page_token(Ticket(ORDER))) == (1_000.25, "one")
    for forged in ("nan/one", "x"):
        with pytest.raises(InvalidRequest) as caught:
            place_of(mark(forged))
        assert caught.value.violations[0].field == "page_token"

"""What becomes of tickets, in the record of acts."""

import pytest
from narthex_server.lot.ticket import Order, Ticket
from narthex_server.lot.transition import Transition, Verb
from narthex_server.principal import CALLER, REQUEST_ID, Principal
from narthex_server.services.works.whose import Whose
from narthex_server.ticketing import TicketActs
from narthex_server.tools.acts import Act

OWNER, CHIEF = Principal("ci", "acme"), Principal("chief", "acme", admin=True)


class Kept:
    def __init__(self) -> None:
        self.acts: list[Act] = []

    def enter(self) -> None:
        pass

    def on_act(self, act: Act) -> None:
        self.acts.append(act)


@pytest.mark.parametrize(
    ("verb", "who", "request_id"),
    [
        (Verb.STARTED, OWNER, "t"),
        (Verb.EXPIRED, OWNER, "t"),
        (Verb.CANCELLED, CHIEF, "c"),
        (Verb.DISCARDED, CHIEF, "c"),
    ],
)
async def test_whoever_cancels_is_named(verb: Verb, who: Principal, request_id: str) -> None:
    kept = Kept()
    CALLER.set(CHIEF)
    REQUEST_ID.set("c")
    order = Order("t", "acme", Whose(OWNER).dump(), "generate", b"", b"", 0.0, keep=1.0)
    TicketActs(kept).on_transition(Transition(verb, Ticket(order)))
    assert kept.acts == [Act(f"ticket.{verb.value}", "t", who, request_id)]

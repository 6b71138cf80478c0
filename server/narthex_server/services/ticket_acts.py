"""What becomes of tickets, for the record."""

from google.rpc.code_pb2 import Code

from narthex_server.lot.ticket import Holding, State
from narthex_server.lot.transition import Transition, Verb
from narthex_server.principal import CALLER, REQUEST_ID
from narthex_server.services.works.whose import Whose
from narthex_server.tools.acts import Act, Acts


class TicketActs:
    """Writes what becomes of tickets into the record of acts, as done by those whose they are, or who asked for it."""

    def __init__(self, acts: Acts) -> None:
        self._acts = acts

    def on_transition(self, transition: Transition) -> None:
        ticket = transition.ticket
        reason = transition.error
        if transition.verb is Verb.FINISHED and ticket.state is not State.DONE:
            reason = Code.Name(ticket.code) if ticket.code and ticket.code in Code.values() else "CANCELLED"
        principal, request_id = Whose.parse(ticket.order.principal).principal, ticket.order.id
        if transition.verb in (Verb.CANCELLED, Verb.DISCARDED):  # which an admin may ask for, too
            principal, request_id = CALLER.get(), REQUEST_ID.get()
        self._acts.on_act(Act(f"ticket.{transition.verb.value}", ticket.order.id, principal, request_id, reason))

    def on_holding(self, holding: Holding) -> None:
        """Nothing has happened."""

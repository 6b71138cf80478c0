"""What becomes of tickets, for the record."""

from google.rpc.code_pb2 import Code

from narthex_server.lot.ticket import Holding, State
from narthex_server.lot.transition import Transition, Verb
from narthex_server.services.works.whose import Whose
from narthex_server.tools.acts import Act, Acts


class TicketActs:
    """Writes what becomes of tickets into the record of acts, as done by those whose they are."""

    def __init__(self, acts: Acts) -> None:
        self._acts = acts

    def on_transition(self, transition: Transition) -> None:
        ticket = transition.ticket
        reason = transition.error
        if transition.verb is Verb.FINISHED and ticket.state is not State.DONE:
            reason = Code.Name(ticket.code) if ticket.code and ticket.code in Code.values() else "CANCELLED"
        principal = Whose.parse(ticket.order.principal).principal
        self._acts.on_act(Act(f"ticket.{transition.verb.value}", ticket.order.id, principal, ticket.order.id, reason))

    def on_holding(self, holding: Holding) -> None:
        """Nothing has happened."""

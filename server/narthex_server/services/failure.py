"""Work that has failed, told to those who come for its result."""

from google.rpc.status_pb2 import Status

from narthex_server.errors import Cancelled, DeadlineExceeded, NarthexError
from narthex_server.lot.ticket import State, Ticket


class WorkFailed(NarthexError):
    """Ends a call with the status that the work has failed with."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message, reason="WORK_FAILED")
        self.status = status


def failure(ticket: Ticket) -> NarthexError | None:
    """Why a ticket that is over has no result; None where it has one."""
    if ticket.state is State.DONE:
        return None
    if ticket.status:
        return WorkFailed(Status.FromString(ticket.status))
    deadline, ended = ticket.order.deadline, ticket.ended
    if deadline is not None and ended is not None and ended >= deadline:
        return DeadlineExceeded("the time that the ticket's work may take is over", reason="TICKET_EXPIRED")
    return Cancelled("the ticket was cancelled", reason="TICKET_CANCELLED")

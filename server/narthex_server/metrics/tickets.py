"""Metrics of tickets."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from narthex_server.lot.ticket import Holding, State, Ticket
from narthex_server.lot.transition import Transition, Verb

KINDS = ("generate", "chat", "call_tool", "embed")
OUTCOMES = (State.DONE, State.FAILED, State.CANCELLED)
SECONDS = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400)
ATTEMPTS = (1, 2, 3, 5, 10)


class TicketMetrics:
    """A TicketObserver; levels are those of the last sweep."""

    def __init__(self, target: CollectorRegistry) -> None:
        self._open = Gauge("narthex_tickets_open", "Tickets that wait or run, whosever they are.", registry=target)
        self._parked = Gauge("narthex_tickets_parked", "Results that wait in the mailbox.", registry=target)
        self._bytes = Gauge("narthex_tickets_bytes", "Bytes of requests and events that are kept.", registry=target)
        submitted = Counter("narthex_tickets_submitted", "Tickets that were given.", ("kind",), registry=target)
        finished = Counter("narthex_tickets_finished", "Tickets that are over.", ("kind", "outcome"), registry=target)
        self._submitted = {kind: submitted.labels(kind) for kind in KINDS}
        self._finished = {(kind, state): finished.labels(kind, state.value) for kind in KINDS for state in OUTCOMES}
        self._began = Counter("narthex_tickets_started", "Times that a ticket's work was begun.", registry=target)
        self._released = Counter("narthex_tickets_released", "Tickets that were given back to wait.", registry=target)
        self._waited = Histogram(
            "narthex_ticket_wait_seconds", "From a ticket's submission to its beginning.", buckets=SECONDS,
            registry=target,
        )  # fmt: skip
        self._took = Histogram(
            "narthex_ticket_seconds", "From a ticket's beginning to its end.", buckets=SECONDS, registry=target
        )
        self._attempts = Histogram(
            "narthex_ticket_attempts", "How often a ticket's work was begun.", buckets=ATTEMPTS, registry=target
        )
        told = Counter("narthex_webhooks", "Webhooks that were tried to be told.", ("outcome",), registry=target)
        self._told = {outcome: told.labels(outcome) for outcome in ("ok", "error")}

    def on_transition(self, transition: Transition) -> None:
        ticket = transition.ticket
        order = ticket.order
        match transition.verb:
            case Verb.SUBMITTED:
                self._submitted[order.kind].inc()
            case Verb.STARTED:
                self._began.inc()
                if ticket.attempt == 1 and ticket.started is not None:
                    self._waited.observe(max(ticket.started - order.submitted, 0.0))
            case Verb.RELEASED:
                self._released.inc()
            case Verb.FINISHED | Verb.EXPIRED | Verb.CANCELLED:
                self._end(ticket)
            case Verb.TOLD:
                self._told["error" if transition.error else "ok"].inc()

    def on_holding(self, holding: Holding) -> None:
        self._open.set(holding.open)
        self._parked.set(holding.parked)
        self._bytes.set(holding.size)

    def _end(self, ticket: Ticket) -> None:
        if (counter := self._finished.get((ticket.order.kind, ticket.state))) is not None:
            counter.inc()  # a later version that shares the lot may have other kinds
        if ticket.attempt:
            self._attempts.observe(ticket.attempt)
        if ticket.started is not None and ticket.ended is not None:
            self._took.observe(max(ticket.ended - ticket.started, 0.0))

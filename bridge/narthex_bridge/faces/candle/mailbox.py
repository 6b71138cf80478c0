"""/v1/mailbox and /v1/mailbox/{id}."""

from collections.abc import Mapping
from contextlib import aclosing
from types import MappingProxyType
from typing import Any

import orjson
from narthex.v1 import lot_pb2 as wire

from narthex_bridge.faces.candle.results import result
from narthex_bridge.faces.openai.face import error
from narthex_bridge.faces.options import PRIORITIES
from narthex_bridge.http.messages import HttpRequest, HttpResponse
from narthex_bridge.http.refusal import Refusal
from narthex_bridge.protocol.failures import BackendError
from narthex_bridge.server.lot import Lot

_STATES: Mapping[str, wire.TicketState.ValueType] = MappingProxyType(
    {
        "waiting": wire.TICKET_STATE_WAITING, "running": wire.TICKET_STATE_RUNNING,
        "input_required": wire.TICKET_STATE_INPUT_REQUIRED, "done": wire.TICKET_STATE_DONE,
        "failed": wire.TICKET_STATE_FAILED, "cancelled": wire.TICKET_STATE_CANCELLED,
    }
)  # fmt: skip
_STATUSES = {state: name for name, state in _STATES.items()}
LEVELS = {priority: name for name, priority in PRIORITIES.items()}
_UNFORTUNATE = (wire.TICKET_STATE_FAILED, wire.TICKET_STATE_CANCELLED)


class MailboxEndpoint:
    """The tickets that the caller may see, and their results."""

    def __init__(self, lot: Lot) -> None:
        self._lot = lot

    async def list(self, http: HttpRequest) -> HttpResponse:
        """The newest first: `limit` of them, `after` what `next` of an answer said, those of one `status`."""
        status = http.query.get("status")
        if status is not None and status not in _STATES:
            raise Refusal(400, f"status must be one of {', '.join(_STATES)}.", param="status")
        asked = wire.ListTicketsRequest(
            page_size=_limit(http.query.get("limit", "0")),
            page_token=http.query.get("after", ""),
            states=[] if status is None else [_STATES[status]],
        )
        found = await self._lot.list_tickets(http.caller, http.request_id, asked)
        data = [_ticket(ticket) for ticket in found.tickets]
        body = {"object": "list", "data": data, "next": found.next_page_token or None}
        return HttpResponse(200, orjson.dumps(body))

    async def get(self, http: HttpRequest) -> HttpResponse:
        """A ticket with its `result`, or the `error` that its work ended with; neither before the end."""
        ticket = (await self._lot.ticket(http.caller, http.request_id, http.path["id"])).ticket
        told: dict[str, Any] = {**_ticket(ticket), "result": None, "error": None}
        try:
            if ticket.state == wire.TICKET_STATE_DONE or ticket.state in _UNFORTUNATE:
                told["result"] = orjson.Fragment(await self._result(http, ticket.id))
        except BackendError as failure:
            if ticket.state not in _UNFORTUNATE:
                raise
            told["error"] = error(Refusal.of(failure))
        return HttpResponse(200, orjson.dumps(told))

    async def delete(self, http: HttpRequest) -> HttpResponse:
        """Ends the work, or throws its result away."""
        ticket = await self._lot.cancel(http.caller, http.request_id, http.path["id"])
        deleted = {"id": ticket.id, "object": "ticket", "status": _STATUSES.get(ticket.state), "deleted": True}
        return HttpResponse(200, orjson.dumps(deleted))

    async def _result(self, http: HttpRequest, name: str) -> bytes:
        async with aclosing(self._lot.fetch(http.caller, http.request_id, wire.FetchRequest(ticket_id=name))) as told:
            return result([one async for one in told])


def _ticket(ticket: wire.Ticket) -> dict[str, Any]:
    return {
        "id": ticket.id,
        "object": "ticket",
        "status": _STATUSES.get(ticket.state, "unknown"),
        "priority": LEVELS.get(ticket.priority, "normal"),
        "ahead": ticket.ahead,
        "submitted_at": _seconds(ticket.submit_time),
        "started_at": _seconds(ticket.start_time),
        "ended_at": _seconds(ticket.end_time),
        "expires_at": _seconds(ticket.expire_time),
    }


def _seconds(time: Any) -> float | None:
    """Since 1970; None where it has not come."""
    return time.seconds + time.nanos / 1e9 or None


def _limit(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise Refusal(400, "limit must be a number of tickets.", param="limit")
    return int(text)

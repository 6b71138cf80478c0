"""Responses that are made without anybody on the line: tickets of the server's lot, of which nothing is kept here."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from narthex.v1 import common_pb2 as common
from narthex.v1 import lot_pb2 as lot_wire

from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.faces.openai.asked import Asked
from narthex_bridge.faces.openai.order import ResponseOrder
from narthex_bridge.faces.openai.output import Output
from narthex_bridge.faces.stream import Stream
from narthex_bridge.faces.work import Work
from narthex_bridge.http.messages import HttpRequest, HttpResponse, event_stream
from narthex_bridge.http.refusal import Headers, Refusal
from narthex_bridge.protocol.failures import BackendError
from narthex_bridge.server.lot import Lot

_PREFIX = "resp_"
_OVER = (lot_wire.TICKET_STATE_DONE, lot_wire.TICKET_STATE_FAILED, lot_wire.TICKET_STATE_CANCELLED)
_UNFORTUNATE = (lot_wire.TICKET_STATE_FAILED, lot_wire.TICKET_STATE_CANCELLED)

Happening = lot_wire.WorkEvent | lot_wire.Ticket | Refusal
"""What comes of a response's work: the ticket as it changes, its events, and at last why it failed, if it did."""


@dataclass(frozen=True, slots=True)
class Parked:
    """A ticket, and what the response that it stands for has to repeat."""

    ticket: lot_wire.Ticket
    asked: Asked

    @property
    def over(self) -> bool:
        return self.ticket.state in _OVER

    def output(self, after: int = -1) -> Output:
        return Output(self.ticket.id, self.asked, self.ticket.submit_time.seconds, after)


class Background:
    """Begins, tells, cancels and throws away the caller's responses."""

    def __init__(self, config: BridgeConfig, lot: Lot, work: Work) -> None:
        self._config = config
        self._lot = lot
        self._work = work

    async def begin(self, http: HttpRequest, order: ResponseOrder) -> HttpResponse:
        """Answers as soon as the work is taken, or with its events."""
        options = common.CallOptions(note=order.asked.note())
        options.MergeFrom(order.options)
        request = lot_wire.SubmitRequest(work=lot_wire.Work(chat=order.chat), options=options)
        ticket = (await self._lot.submit(http.caller, http.request_id, request)).ticket
        parked = Parked(ticket, order.asked)
        if order.stream:
            return await self._told(http, parked, headers=order.headers)
        return _whole(await self._response(http, parked), order.headers)

    async def get(self, http: HttpRequest) -> HttpResponse:
        parked = await self._find(http, _name(http))
        if http.query.get("stream", "").lower() in ("true", "1"):
            return await self._told(http, parked, _number(http.query.get("starting_after")))
        return _whole(await self._response(http, parked))

    async def cancel(self, http: HttpRequest) -> HttpResponse:
        """One that is over stays what it is."""
        parked = await self._find(http, _name(http))
        if not parked.over:
            ticket = await self._lot.cancel(http.caller, http.request_id, parked.ticket.id)
            parked = Parked(ticket, parked.asked)
        return _whole(await self._response(http, parked))

    async def delete(self, http: HttpRequest) -> HttpResponse:
        """Ends the work, too."""
        parked = await self._find(http, _name(http))
        was = await self._lot.cancel(http.caller, http.request_id, parked.ticket.id)
        if was.state == lot_wire.TICKET_STATE_CANCELLED and not parked.over:
            await self._lot.cancel(http.caller, http.request_id, parked.ticket.id)
        return _whole({"id": f"{_PREFIX}{parked.ticket.id}", "object": "response", "deleted": True})

    async def _find(self, http: HttpRequest, name: str) -> Parked:
        """Raises Refusal (404) for what is none of the caller's responses."""
        try:
            found = await self._lot.ticket(http.caller, http.request_id, name)
        except BackendError as failure:
            raise _missing(name) if failure.status == "NOT_FOUND" else failure from None
        if (asked := Asked.of(found.note)) is None:
            raise _missing(name)
        return Parked(found.ticket, asked)

    async def _response(self, http: HttpRequest, parked: Parked) -> dict[str, Any]:
        """The response as it is now, with what it has of its output."""
        output = parked.output()
        if parked.ticket.state == lot_wire.TICKET_STATE_WAITING:
            return output.standing("queued")
        events, failure = await self._events(http, parked.ticket.id)
        output.tell([event.chat for event in events])
        ticket = parked.ticket if failure is None else await self._ended(http, parked.ticket.id, failure)
        match ticket.state:
            case lot_wire.TICKET_STATE_CANCELLED:
                output.cancelled()
                return output.standing("cancelled")
            case lot_wire.TICKET_STATE_FAILED if failure is not None:
                return output.failed(Refusal.of(failure))
            case lot_wire.TICKET_STATE_DONE:
                output.end()
                return output.response()
            case _:
                return output.standing("in_progress")

    async def _events(
        self, http: HttpRequest, name: str, after: int = 0
    ) -> tuple[Sequence[lot_wire.WorkEvent], BackendError | None]:
        """Those after the `after`th that there are and hold, and how the work failed, if it did."""
        request = lot_wire.FetchRequest(ticket_id=name, events=True, after_sequence=after)
        found: list[lot_wire.WorkEvent] = []
        try:
            async with aclosing(self._lot.fetch(http.caller, http.request_id, request)) as told:
                async for one in told:
                    if one.event.HasField("restarted"):
                        found.clear()
                    found.append(one.event)
        except BackendError as failure:
            return found, failure
        return found, None

    async def _ended(self, http: HttpRequest, name: str, failure: BackendError) -> lot_wire.Ticket:
        """The ticket of work that failed; raises the failure where it was not the work's but that of asking."""
        ticket = (await self._find(http, name)).ticket
        if ticket.state not in _UNFORTUNATE:
            raise failure
        return ticket

    async def _told(self, http: HttpRequest, parked: Parked, after: int = -1, headers: Headers = ()) -> HttpResponse:
        told = Followed(parked.output(after))
        stream = Stream[Happening](told, self._config.keepalive_s, http.request_id)
        await stream.open(self._work, self._followed(http, parked.ticket), self._config.stream_after_s)
        return event_stream(stream, stream.tally, headers)

    async def _followed(self, http: HttpRequest, ticket: lot_wire.Ticket) -> AsyncGenerator[Happening, None]:
        if ticket.state not in _OVER:
            yield ticket
        events, failure = await self._events(http, ticket.id)
        for event in events:
            yield event
        if failure is None:
            seen = events[-1].sequence if events else 0
            request = lot_wire.WatchRequest(ticket_ids=[ticket.id], events=True, after_sequence=seen)
            async with aclosing(self._lot.watch(http.caller, http.request_id, request)) as told:
                async for one in told:
                    if one.HasField("event"):
                        seen = one.event.sequence
                        yield one.event
                    else:
                        ticket = one.ticket
            if ticket.state == lot_wire.TICKET_STATE_FAILED:
                _, failure = await self._events(http, ticket.id, seen)
        if failure is not None:
            ticket = await self._ended(http, ticket.id, failure)
        yield Refusal.of(failure) if failure and ticket.state == lot_wire.TICKET_STATE_FAILED else ticket


class Followed:
    """Tells what comes of a response's work; always in the same events, so that their numbers mean something later."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._begun = False

    def tell(self, events: Sequence[Happening]) -> bytes:
        begun = b"" if self._begun else self._output.queued()
        told = [begun, *map(self._tell, events)]
        self._begun = True
        return b"".join(told)

    def end(self) -> bytes:
        return b""

    def fail(self, refusal: Refusal) -> bytes:
        """The work goes on, and can be followed again."""
        return self._output.broken(refusal)

    def _tell(self, one: Happening) -> bytes:
        if isinstance(one, Refusal):
            return self._output.fail(one)
        if isinstance(one, lot_wire.WorkEvent):
            if one.HasField("restarted") and self._output.begun:
                text = "The response was begun anew, and its events so far are void; follow it from the start."
                raise Refusal(503, text, reason="RESTARTED")
            return self._output.tell([one.chat])
        match one.state:
            case lot_wire.TICKET_STATE_DONE:
                return self._output.end()
            case lot_wire.TICKET_STATE_CANCELLED:
                return self._output.cancelled()
            case _:
                return b""


def _name(http: HttpRequest) -> str:
    """The ticket of the response in the path."""
    name = http.path["id"]
    if not name.startswith(_PREFIX):
        raise _missing(name)
    return name.removeprefix(_PREFIX)


def _number(text: str | None) -> int:
    """The last event that the client has; -1 for none."""
    if text is None:
        return -1
    if not text.isdecimal() or len(text) > 18:
        raise Refusal(400, "starting_after must be an event's sequence_number.", param="starting_after")
    return int(text)


def _missing(name: str) -> Refusal:
    told = name if name.startswith(_PREFIX) else f"{_PREFIX}{name}"
    return Refusal(404, f"There is no response {told!r:.160}, or it has expired.", reason="RESPONSE_NOT_FOUND")


def _whole(response: dict[str, Any], headers: Headers = ()) -> HttpResponse:
    return HttpResponse(200, orjson.dumps(response), headers=headers)

"""Clients of a lot whose servers die under them: they submit, follow and fetch at whichever server is there."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
from google.protobuf.duration_pb2 import Duration
from narthex.v1 import common_pb2, tool_pb2
from narthex.v1 import generation_pb2 as text
from narthex.v1 import lot_pb2 as wire
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.lot_pb2_grpc import LotServiceStub

OVER = (wire.TICKET_STATE_DONE, wire.TICKET_STATE_FAILED, wire.TICKET_STATE_CANCELLED)
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
"""What calls end with whose server has died, or whose channel was closed for that."""

PATIENCE = 60.0
"""Seconds in which a server comes back, and a call of one that lives ends."""

OUTLASTED = 500.0
"""Seconds in which something succeeds, however often its server dies."""

PAUSE = 0.02
TOOL = "counting__look"


def work(number: int, tokens: int = 12) -> wire.Work:
    """Of every kind in turn: greedy, with a seed, without one, and calls of a tool that may be made twice."""
    match number % 4:
        case 0:
            arguments = json.dumps({"number": number}).encode()
            return wire.Work(call_tool=tool_pb2.ToolInvocation(name=TOOL, arguments=arguments))
        case 1:
            return wire.Work(generate=generation(number, tokens, temperature=0))
        case 2:
            return wire.Work(generate=generation(number, tokens, seed=number))
    return wire.Work(generate=generation(number, tokens))


def generation(number: int, tokens: int, **sampling: float) -> text.GenerationSpec:
    stopping = text.StoppingOptions(max_tokens=tokens, ignore_eos=True)
    options = text.SamplingOptions(**sampling)
    response = text.ResponseOptions(token_ids=True)
    return text.GenerationSpec(text=f"The time {number}", stopping=stopping, sampling=options, response=response)


class Servers:
    """Those that share a lot, by where they are now, if they are anywhere."""

    def __init__(self, *addresses: str) -> None:
        self._addresses: list[asyncio.Future[str]] = []
        self._turn = itertools.count()
        for index, address in enumerate(addresses):
            self._addresses.append(asyncio.get_running_loop().create_future())
            if address:
                self.came(index, address)

    def came(self, index: int, address: str) -> None:
        self._addresses[index].set_result(address)

    def went(self, index: int) -> None:
        self._addresses[index] = asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def one(self, index: int | None = None) -> AsyncIterator[grpc.aio.Channel]:
        """A connection to the named one, or to one after the other, as soon as it is there."""
        place = (next(self._turn) if index is None else index) % len(self._addresses)
        async with asyncio.timeout(PATIENCE):
            address = await asyncio.shield(self._addresses[place])
        async with grpc.aio.insecure_channel(address) as channel:
            yield channel


@dataclass
class Crowd:
    """What its clients have been told: tickets by the number of their work, and events by ticket."""

    servers: Servers
    tickets: dict[int, str] = field(default_factory=dict)
    heard: dict[str, list[wire.WorkEvent]] = field(default_factory=dict)
    live: dict[str, list[text.GenerateStreamResponse]] = field(default_factory=dict)
    _more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def has(self, count: int) -> None:
        """Waits until so many tickets were given."""
        async with self._more:
            await self._more.wait_for(lambda: len(self.tickets) >= count)

    async def submit(self, number: int, work: wire.Work, index: int | None = None) -> str:
        """Until it is acknowledged, by a key that makes the attempts one."""
        options = common_pb2.CallOptions(idempotency_key=f"work-{number}")

        async def once(lot: LotServiceStub) -> None:
            response = await lot.Submit(wire.SubmitRequest(work=work, options=options), timeout=PATIENCE)
            known = self.tickets.setdefault(number, response.ticket.id)
            assert known == response.ticket.id, "two tickets of one key"

        await self._insist(once, index)
        async with self._more:
            self._more.notify_all()
        return self.tickets[number]

    async def follow(self, ticket: str, index: int | None = None) -> list[wire.WorkEvent]:
        """All of its events, each asked for once."""
        heard = self.heard.setdefault(ticket, [])

        async def once(lot: LotServiceStub) -> None:
            after = heard[-1].sequence if heard else 0
            wait = Duration(seconds=int(PATIENCE))
            request = wire.FetchRequest(ticket_id=ticket, events=True, after_sequence=after, wait=wait)
            async for response in lot.Fetch(request):
                heard.append(response.event)

        await self._insist(once, index)
        return heard

    async def watch(self, ticket: str, index: int | None = None) -> wire.Ticket:
        """Until it is over; as it was then."""
        last = wire.Ticket()

        async def once(lot: LotServiceStub) -> None:
            version = 0
            async for change in lot.Watch(wire.WatchRequest(ticket_ids=[ticket])):
                assert change.ticket.version > version, "a change twice, or backwards"
                version = change.ticket.version
                last.CopyFrom(change.ticket)
            assert last.state in OVER

        await self._insist(once, index)
        return last

    async def fetch(self, ticket: str, index: int | None = None) -> wire.FetchResponse:
        """Its one result."""
        results: list[wire.FetchResponse] = []

        async def once(lot: LotServiceStub) -> None:
            results.clear()
            request = wire.FetchRequest(ticket_id=ticket, wait=Duration(seconds=int(PATIENCE)))
            async for response in lot.Fetch(request):
                results.append(response)

        await self._insist(once, index)
        (result,) = results
        return result

    async def park(self, number: int, tokens: int) -> None:
        """A live call that goes on without its client; it listens as long as its server lives."""
        spec = generation(number, tokens)
        options = common_pb2.CallOptions(on_disconnect=common_pb2.ON_DISCONNECT_PARK)
        try:
            async with self.servers.one() as channel:
                stub = GenerationServiceStub(channel)
                call = stub.GenerateStream(text.GenerateStreamRequest(spec=spec, options=options))
                heard: list[text.GenerateStreamResponse] = []
                async for response in call:
                    if response.HasField("started"):
                        self.live[response.started.request_id] = heard
                    heard.append(response)
        except grpc.aio.AioRpcError as error:
            if error.code() not in GONE:
                raise

    async def all(self, index: int | None = None) -> Sequence[wire.Ticket]:
        """What the lot has, however many pages."""
        found: list[wire.Ticket] = []

        async def once(lot: LotServiceStub) -> None:
            found.clear()
            page = ""
            while True:
                response = await lot.ListTickets(wire.ListTicketsRequest(page_size=100, page_token=page))
                found.extend(response.tickets)
                page = response.next_page_token
                if not page:
                    return

        await self._insist(once, index)
        return found

    async def _insist(self, once: Callable[[LotServiceStub], object], index: int | None) -> None:
        async with asyncio.timeout(OUTLASTED):
            while True:
                try:
                    async with self.servers.one(index) as channel:
                        await once(LotServiceStub(channel))
                    return
                except grpc.aio.AioRpcError as error:
                    if error.code() not in GONE:
                        raise
                    await asyncio.sleep(PAUSE)


def attempts(events: Sequence[wire.WorkEvent]) -> list[list[wire.WorkEvent]]:
    """Events between those that say that the work began anew."""
    parts: list[list[wire.WorkEvent]] = [[]]
    for event in events:
        if event.HasField("restarted"):
            parts.append([])
        else:
            parts[-1].append(event)
    return parts


def check(number: int, tokens: int, events: Sequence[wire.WorkEvent], result: wire.FetchResponse) -> None:
    """That these are all the events of this work, once, and its result what they say."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    last = attempts(events)[-1]
    if number % 4 == 0:
        assert [event.call_tool.HasField("result") for event in last].count(True) == 1
        assert json.loads(json.loads(result.call_tool.content)[0]["text"])["arguments"] == {"number": number}
        return
    assert [event.generate.HasField("finished") for event in last].count(True) == 1
    ids = [token for event in last for token in event.generate.text_delta.token_ids]
    assert len(ids) == tokens and list(result.generate.token_ids) == ids

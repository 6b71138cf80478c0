"""Background responses, where the work behind them does not go well."""

from dataclasses import dataclass, field
from typing import Any

import grpc
import openai
import pytest
from narthex.v1 import generation_pb2_grpc, lot_pb2, lot_pb2_grpc, tool_pb2_grpc

from tests.unit.bridge.faces.conftest import Fault, ModelServer

RUNNING, DONE = lot_pb2.TICKET_STATE_RUNNING, lot_pb2.TICKET_STATE_DONE
FAILED, CANCELLED = lot_pb2.TICKET_STATE_FAILED, lot_pb2.TICKET_STATE_CANCELLED


@dataclass
class Lot(ModelServer, lot_pb2_grpc.LotServiceServicer):
    """One ticket: `kept` has its events, `fresh` those that a watch brings; then it is in the state `last`."""

    kept: list[Any] = field(default_factory=list)
    fresh: list[Any] = field(default_factory=list)
    state: Any = RUNNING
    last: Any = RUNNING
    note: bytes = b""
    lost: Fault | None = None

    def ticket(self) -> lot_pb2.Ticket:
        return lot_pb2.Ticket(id="t", state=self.state, submit_time={"seconds": 7})

    async def Submit(self, request, context):
        self.note = request.options.note
        return lot_pb2.SubmitResponse(ticket=self.ticket())

    async def GetTicket(self, request, context):
        return lot_pb2.GetTicketResponse(ticket=self.ticket(), note=self.note)

    async def Fetch(self, request, context):
        for event in self.kept:
            if event.sequence > request.after_sequence:
                yield lot_pb2.FetchResponse(event=event)
        if self.fault is not None and self.state in (FAILED, CANCELLED):
            await self.fault.raise_in(context)

    async def Watch(self, request, context):
        yield lot_pb2.WatchResponse(ticket=self.ticket())
        for event in self.fresh:
            self.kept.append(event)
            yield lot_pb2.WatchResponse(ticket={"id": "t"}, event=event)
        if self.lost is not None:
            await self.lost.raise_in(context)
        self.state = self.last
        yield lot_pb2.WatchResponse(ticket=self.ticket())


@pytest.fixture
async def models():
    server, service = grpc.aio.server(), Lot()
    lot_pb2_grpc.add_LotServiceServicer_to_server(service, server)
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(service, server)
    tool_pb2_grpc.add_ToolServiceServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield service
    await server.stop(0)


@pytest.fixture
async def begun(client, models):
    return await client.responses.create(model="m", input="Hello", background=True, metadata={"a": "b"})


def kept(*chats, after=0):
    return [lot_pb2.WorkEvent(sequence=after + number, chat=chat) for number, chat in enumerate(chats, 1)]


async def followed(client, id, **more):
    return [event async for event in await client.responses.retrieve(id, stream=True, **more)]


async def test_work_that_fails_is_the_responses_own_failure(client, models, said, fault, codes, begun):
    models.kept, models.fresh = kept(said.started(), said.text("Hel")), kept(said.text("lo"), after=2)
    models.last, models.fault = FAILED, fault(codes.INTERNAL, "INTERNAL", "It broke.")
    told = await followed(client, begun.id)
    assert told[-1].type == "response.failed" and told[-1].response.error.message == "It broke."
    assert "".join(event.delta for event in told if event.type == "response.output_text.delta") == "Hello"
    assert (await client.responses.retrieve(begun.id)).error == told[-1].response.error
    assert (await followed(client, begun.id))[-1] == told[-1], "also long after"


async def test_work_whose_time_is_over_is_cancelled(client, models, said, fault, codes, begun):
    models.kept, models.state = kept(said.started(), said.text("Hel")), CANCELLED
    models.fault = fault(codes.DEADLINE_EXCEEDED, "DEADLINE", "Its time is over.")
    made = await client.responses.retrieve(begun.id)
    assert (made.status, made.output_text, made.metadata, made.created_at) == ("cancelled", "Hel", {"a": "b"}, 7)
    last = (await followed(client, begun.id))[-1]
    assert last.type == "response.cancelled" and last.response["output"] == [item.to_dict() for item in made.output]


async def test_a_lost_server_ends_the_stream_and_not_the_response(client, models, said, fault, codes, begun):
    models.fresh, models.lost = kept(said.started()), fault(codes.UNAVAILABLE, "DRAINING", "It shuts down.")
    lost = (await followed(client, begun.id))[-1]
    assert (lost.type, lost.message, lost.sequence_number) == ("error", "It shuts down.", 3)
    models.lost, models.fresh, models.last = None, kept(said.finished(), after=1), DONE
    assert (await followed(client, begun.id, starting_after=2))[-1].type == "response.completed"


async def test_work_that_was_begun_anew_is_told_from_there(client, models, said, begun):
    again = lot_pb2.WorkEvent(sequence=3, restarted={"attempt": 2})
    models.kept = [*kept(said.started(), said.text("No")), again, *kept(said.started(), said.text("Yes"), after=3)]
    models.fresh, models.last = kept(said.finished(), after=5), DONE
    assert (await followed(client, begun.id))[-1].response.output_text == "Yes"
    assert (await client.responses.retrieve(begun.id)).output_text == "Yes"


async def test_who_has_heard_of_work_that_is_begun_anew_is_told_to_begin_anew(client, models, said, begun):
    models.kept = kept(said.started(), said.text("No"))
    models.fresh = [lot_pb2.WorkEvent(sequence=3, restarted={"attempt": 2})]
    last = (await followed(client, begun.id))[-1]
    assert (last.type, last.code) == ("error", "restarted") and "from the start" in last.message


async def test_a_ticket_of_other_work_is_no_response(client, models, begun):
    for note in (b"", b"{", b"[]", b'{"form": "other"}', b'{"form": "narthex.response/1"}'):
        models.note = note
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(begun.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve("t")


async def test_a_place_that_is_no_number_is_refused(bridge, begun):
    answer = await bridge.http.get(f"/v1/responses/{begun.id}?stream=true&starting_after=x")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "starting_after")

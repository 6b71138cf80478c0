"""Tickets over gRPC with the demo model: submitted, parked, followed, cancelled, and fetched later."""

import asyncio
import json

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from narthex.v1 import common_pb2, tool_pb2
from narthex.v1 import generation_pb2 as text
from narthex.v1 import lot_pb2 as wire
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.lot_pb2_grpc import LotServiceStub
from narthex.v1.tool_pb2_grpc import ToolServiceStub

WAIT = Duration(seconds=30)
PARK = common_pb2.CallOptions(on_disconnect=common_pb2.ON_DISCONNECT_PARK)
OVER = (wire.TICKET_STATE_DONE, wire.TICKET_STATE_FAILED, wire.TICKET_STATE_CANCELLED)


@pytest.fixture(scope="module")
def server(launch, demo, upstreams):
    return launch("--model", demo, "--mcp-config", str(upstreams), "--max-slots", "1")


@pytest.fixture
def lot(channel):
    return LotServiceStub(channel)


@pytest.fixture
def stub(channel):
    return GenerationServiceStub(channel)


def completion(tokens: int = 12, **fields) -> text.GenerationSpec:
    spec = text.GenerationSpec(text="The time in Rome", stopping=text.StoppingOptions(max_tokens=tokens))
    spec.stopping.ignore_eos = True
    spec.MergeFrom(text.GenerationSpec(**fields))
    return spec


def endless() -> text.GenerationSpec:
    spec = completion()
    spec.stopping.ClearField("max_tokens")
    return spec


def generate(spec: text.GenerationSpec | None = None) -> wire.Work:
    return wire.Work(generate=spec or completion())


async def submitted(lot, work: wire.Work | None = None, **fields) -> wire.Ticket:
    return (await lot.Submit(wire.SubmitRequest(work=work or generate(), **fields))).ticket


async def fetched(lot, ticket: str, **fields) -> list[wire.FetchResponse]:
    request = wire.FetchRequest(ticket_id=ticket, wait=WAIT)
    request.MergeFrom(wire.FetchRequest(**fields))
    return [response async for response in lot.Fetch(request)]


async def over(lot, ticket: str) -> wire.Ticket:
    async for change in lot.Watch(wire.WatchRequest(ticket_ids=[ticket]), timeout=30):
        last = change.ticket
    assert last.state in OVER
    return last


async def test_submitted_work_runs_and_its_result_waits(lot, stub):
    spec = completion(sampling=text.SamplingOptions(temperature=0))
    ticket = await submitted(lot, generate(spec))
    assert ticket.id and ticket.state in (wire.TICKET_STATE_WAITING, wire.TICKET_STATE_RUNNING)
    (result,) = await fetched(lot, ticket.id)
    live = await stub.Generate(text.GenerateRequest(spec=spec))
    assert result.generate.text == live.text and result.generate.request_id == ticket.id
    assert result.generate.finished.usage.completion_tokens == 12
    assert await fetched(lot, ticket.id) == [result], "it stays there"
    done = (await lot.GetTicket(wire.GetTicketRequest(ticket_id=ticket.id))).ticket
    assert done.state == wire.TICKET_STATE_DONE and done.version > ticket.version
    assert done.submit_time.ToSeconds() <= done.start_time.ToSeconds() <= done.end_time.ToSeconds()
    assert done.expire_time.ToSeconds() > done.end_time.ToSeconds()


async def test_a_parked_stream_goes_on_without_its_client(lot, stub):
    spec = completion(400)
    call = stub.GenerateStream(text.GenerateStreamRequest(spec=spec, options=PARK))
    started = (await call.read()).started
    heard = [await call.read() for _ in range(3)]
    call.cancel()
    events = [response.event for response in await fetched(lot, started.request_id, events=True)]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.generate for event in events[1:4]] == heard
    assert events[-1].generate.finished.usage.completion_tokens == 400

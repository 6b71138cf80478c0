"""A server whose file of tickets cannot grow: who needs it is told, others notice nothing, and work goes on later."""

import resource
import sys

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from narthex.v1 import common_pb2
from narthex.v1 import generation_pb2 as text
from narthex.v1 import lot_pb2 as wire
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.lot_pb2_grpc import LotServiceStub

from tests.e2e.server.crowd import generation, work

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of a process that runs are Linux's")

PARK = common_pb2.CallOptions(on_disconnect=common_pb2.ON_DISCONNECT_PARK)


@pytest.fixture
def server(launch, demo, nothing, tmp_path):
    store = ("--tickets-store", str(tmp_path / "tickets.sqlite"), "--tickets-lease", "60")
    return launch("--model", demo, "--mcp-config", str(nothing), *store)


def limit(server, size: int) -> None:
    """No file of the server's grows beyond that: as on a full disk."""
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def test_a_full_disk_is_told_of_and_work_goes_on_when_there_is_room(server, channel, failure):
    stub, lot = GenerationServiceStub(channel), LotServiceStub(channel)
    call = stub.GenerateStream(text.GenerateStreamRequest(spec=generation(1, 400), options=PARK))
    ticket = (await call.read()).started.request_id
    call.cancel()
    limit(server, 1)
    for refused in (
        lot.Submit(wire.SubmitRequest(work=work(1)), timeout=20),
        stub.Generate(text.GenerateRequest(spec=generation(1, 4), options=PARK), timeout=20),
    ):
        caught = await failure(refused)
        assert caught.code is grpc.StatusCode.UNAVAILABLE and "tickets" in caught.text, caught
    assert len((await stub.Generate(text.GenerateRequest(spec=generation(1, 4)), timeout=20)).token_ids) == 4
    known = (await lot.GetTicket(wire.GetTicketRequest(ticket_id=ticket))).ticket
    assert known.state in (wire.TICKET_STATE_RUNNING, wire.TICKET_STATE_DONE)
    limit(server, resource.RLIM_INFINITY)
    another = (await lot.Submit(wire.SubmitRequest(work=work(1)))).ticket.id
    for one, tokens in ((ticket, 400), (another, 12)):
        [result] = [found async for found in lot.Fetch(wire.FetchRequest(ticket_id=one, wait=Duration(seconds=60)))]
        assert len(result.generate.token_ids) == tokens

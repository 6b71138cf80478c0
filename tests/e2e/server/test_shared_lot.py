"""Two servers that share a lot in PostgreSQL, and what becomes of it when one of them, or the database, dies."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest
from narthex.v1 import common_pb2
from narthex.v1 import generation_pb2 as text
from narthex.v1 import lot_pb2 as wire
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.lot_pb2_grpc import LotServiceStub

from tests.e2e.server.crowd import Crowd, Servers, attempts, check, generation, work
from tests.unit.lot.stores.postgres_server import PostgresServer

pytestmark = pytest.mark.system

COUNTING = Path(__file__).parents[1] / "upstreams" / "servers" / "counting.py"
TICKETS = 1000
TOKENS = 12


@pytest.fixture
def database():
    with TemporaryDirectory() as folder:
        server = PostgresServer(Path(folder))
        server.create()
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="module")
def counting(tmp_path_factory):
    config = tmp_path_factory.mktemp("counting") / "mcp-config.json"
    config.write_text(json.dumps({"mcpServers": {"counting": {"command": sys.executable, "args": [str(COUNTING)]}}}))
    return config


@pytest.fixture
def serve(launch, demo, counting, database):
    def one():
        store = ("--tickets-store", database.url, "--tickets-lease", "2", "--tickets-max-open", "2000")
        exact = ("--compute", "float32", "--no-speculate", "--max-slots", "4")
        return launch("--model", demo, "--mcp-config", str(counting), *store, *exact)

    return one


@pytest.fixture
async def pair(serve, upstreams_up):
    servers = await asyncio.gather(*(asyncio.to_thread(serve) for _ in range(2)))
    for server in servers:
        async with grpc.aio.insecure_channel(server.grpc) as channel:
            await upstreams_up(channel)
    return servers


async def submitted(crowd: Crowd, count: int = TICKETS) -> None:
    async def some(first: int) -> None:
        for number in range(first, count, 8):
            await crowd.submit(number, work(number, TOKENS), first)

    await asyncio.gather(*map(some, range(8)))


async def checked(crowd: Crowd) -> int:
    """That every ticket ended once with its one result, asked for at either server; how many began anew."""
    tickets, anew = {ticket: number for number, ticket in crowd.tickets.items()}, 0
    turn = iter(tickets.items())

    async def some() -> None:
        nonlocal anew
        for ticket, number in turn:
            result = await crowd.fetch(ticket, number)
            events = await crowd.follow(ticket, number + 1)
            check(number, TOKENS, events, result)
            anew += len(attempts(events)) > 1

    await asyncio.gather(*(some() for _ in range(8)))
    found = await crowd.all()
    assert len(found) == len({ticket.id for ticket in found}) == len(tickets) and {one.id for one in found} == {*tickets}
    assert {one.state for one in found} == {wire.TICKET_STATE_DONE}
    return anew


async def some_done(crowd: Crowd, part: float) -> None:
    """Waits until so many have been submitted, and the last of those is over."""
    await crowd.watch(crowd.tickets[int(len(crowd.tickets) * part)])


async def test_a_thousand_tickets_are_each_done_once_by_either_server(pair):
    crowd = Crowd(Servers([server.grpc for server in pair]))
    await submitted(crowd)
    assert await checked(crowd) == 0
    began = [server.metric("narthex_tickets_started_total") for server in pair]
    assert sum(began) == TICKETS and min(began) > TICKETS / 10, began


async def test_none_is_lost_or_doubled_when_a_server_is_killed_and_started_again(pair, serve, upstreams_up):
    crowd = Crowd(Servers([server.grpc for server in pair]))
    first = asyncio.create_task(submitted(crowd))
    while len(crowd.tickets) < TICKETS / 2:
        await asyncio.sleep(0.01)
    await some_done(crowd, 0.1)
    crowd.servers.addresses[0] = None
    pair[0].process.kill()
    pair[0].process.wait()
    again = await asyncio.to_thread(serve)
    crowd.servers.addresses[0] = again.grpc
    await first
    await checked(crowd)
    assert again.metric("narthex_tickets_started_total") > 0 and pair[1].metric("narthex_tickets_started_total") > 0


async def test_none_is_lost_or_doubled_when_the_database_crashes(pair, database):
    crowd = Crowd(Servers([server.grpc for server in pair]))
    first = asyncio.create_task(submitted(crowd))
    while len(crowd.tickets) < TICKETS / 2:
        await asyncio.sleep(0.01)
    await some_done(crowd, 0.1)
    await asyncio.to_thread(database.restart)
    await first
    await checked(crowd)
    for server in pair:
        assert server.process.poll() is None and server.metric("narthex_tickets_started_total") > 0
        assert server.metric("narthex_num_requests_running", model_name="demo") == 0


async def test_a_parked_call_is_followed_fetched_and_cancelled_at_the_other_server(pair):
    crowd = Crowd(Servers([server.grpc for server in pair]))
    async with AsyncExitStack() as stack:
        here, there = [
            await stack.enter_async_context(grpc.aio.insecure_channel(server.grpc)) for server in pair
        ]
        options = common_pb2.CallOptions(on_disconnect=common_pb2.ON_DISCONNECT_PARK)
        request = text.GenerateStreamRequest(spec=generation(1, 300), options=options)
        call = GenerationServiceStub(here).GenerateStream(request)
        heard = [await call.read() for _ in range(3)]
        call.cancel()
        ticket = heard[0].started.request_id
        watched, events = await asyncio.gather(crowd.watch(ticket, 1), crowd.follow(ticket, 1))
        assert watched.state == wire.TICKET_STATE_DONE and [event.generate for event in events[:3]] == heard
        check(1, 300, events, await crowd.fetch(ticket, 1))
        request.spec.stopping.ClearField("max_tokens")
        call = GenerationServiceStub(here).GenerateStream(request)
        ticket = (await call.read()).started.request_id
        call.cancel()
        cancelled = (await LotServiceStub(there).Cancel(wire.CancelRequest(ticket_id=ticket))).ticket
        assert cancelled.state == wire.TICKET_STATE_CANCELLED
        assert (await crowd.watch(ticket, 0)).state == wire.TICKET_STATE_CANCELLED
        async with asyncio.timeout(10):
            while pair[0].metric("narthex_num_requests_running", model_name="demo"):
                await asyncio.sleep(0.05)

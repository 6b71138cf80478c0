"""Two servers that share a lot in PostgreSQL, and what becomes of it when one of them, or the database, dies."""

import asyncio
import json
import sys
from collections.abc import Collection
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
PARK = common_pb2.CallOptions(on_disconnect=common_pb2.ON_DISCONNECT_PARK)


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


async def checked(crowd: Crowd, others: Collection[str] = ()) -> int:
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
    found = [ticket for ticket in await crowd.all() if ticket.id not in others]
    assert sorted(ticket.id for ticket in found) == sorted(tickets)
    assert {one.state for one in found} == {wire.TICKET_STATE_DONE}
    return anew


async def test_a_thousand_tickets_are_each_done_once_by_either_server(pair):
    crowd = Crowd(Servers(*(server.grpc for server in pair)))
    await submitted(crowd)
    assert await checked(crowd) == 0
    began = [server.metric("narthex_tickets_started_total") for server in pair]
    assert sum(began) == TICKETS and min(began) > TICKETS / 10, began


async def test_none_is_lost_or_doubled_when_a_server_is_killed_and_started_again(pair, serve, upstreams_up):
    crowd = Crowd(Servers(*(server.grpc for server in pair)))
    first = asyncio.create_task(submitted(crowd))
    await crowd.has(TICKETS // 2)
    await crowd.watch(crowd.tickets[TICKETS // 20])
    crowd.servers.went(0)
    pair[0].process.kill()
    pair[0].process.wait()
    again = await asyncio.to_thread(serve)
    crowd.servers.came(0, again.grpc)
    await first
    await checked(crowd)
    assert again.metric("narthex_tickets_started_total") > 0 and pair[1].metric("narthex_tickets_started_total") > 0


async def test_none_is_lost_or_doubled_when_the_database_crashes(pair, database):
    crowd = Crowd(Servers(*(server.grpc for server in pair)))
    first = asyncio.create_task(submitted(crowd))
    await crowd.has(TICKETS // 2)
    await crowd.watch(crowd.tickets[TICKETS // 20])
    await asyncio.to_thread(database.restart)
    await first
    await checked(crowd)
    for server in pair:
        assert server.process.poll() is None and server.metric("narthex_tickets_started_total") > 0
        assert server.metric("narthex_num_requests_running", model_name="demo") == 0


async def test_without_the_database_only_what_needs_it_fails_and_goes_on_with_it(pair, database, failure):
    crowd = Crowd(Servers(*(server.grpc for server in pair)))
    await submitted(crowd, 8)
    async with grpc.aio.insecure_channel(pair[0].grpc) as channel:
        stub, lot = GenerationServiceStub(channel), LotServiceStub(channel)
        call = stub.GenerateStream(text.GenerateStreamRequest(spec=generation(1, 300), options=PARK))
        ticket = (await call.read()).started.request_id
        call.cancel()
        await asyncio.to_thread(database.stop)
        for refused in (
            lot.Submit(wire.SubmitRequest(work=work(1, TOKENS)), timeout=20),
            lot.GetTicket(wire.GetTicketRequest(ticket_id=ticket), timeout=20),
            stub.Generate(text.GenerateRequest(spec=generation(1, 4), options=PARK), timeout=20),
        ):
            caught = await failure(refused)
            assert caught.code is grpc.StatusCode.UNAVAILABLE and "tickets" in caught.text, caught
            assert "postgres" not in caught.text.lower()
        live = await stub.Generate(text.GenerateRequest(spec=generation(1, 4)), timeout=20)
        assert len(live.token_ids) == 4
        await asyncio.to_thread(database.start)
    await checked(crowd, {ticket})
    check(1, 300, await crowd.follow(ticket), await crowd.fetch(ticket))


async def test_a_parked_call_is_followed_fetched_and_cancelled_at_the_other_server(pair):
    crowd = Crowd(Servers(*(server.grpc for server in pair)))
    async with AsyncExitStack() as stack:
        here, there = [await stack.enter_async_context(grpc.aio.insecure_channel(server.grpc)) for server in pair]
        request = text.GenerateStreamRequest(spec=generation(1, 300), options=PARK)
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
        call = GenerationServiceStub(here).GenerateStream(text.GenerateStreamRequest(spec=generation(1, 2)))
        assert [_ async for _ in call], "it takes a step of the engine to notice"
        assert pair[0].metric("narthex_num_requests_running", model_name="demo") == 0

"""One server that is killed again and again at any moment, while clients submit, park, watch, follow and fetch."""

import asyncio
import json
import random
import sys
from pathlib import Path

import pytest
from narthex.v1 import lot_pb2 as wire

from tests.e2e.server.crowd import Crowd, Servers, attempts, check, work

COUNTING = Path(__file__).parents[1] / "upstreams" / "servers" / "counting.py"
CLIENTS = 3
LONGEST_LIFE = 1.5
"""Seconds from a server's ready line to its death, at most."""


@pytest.fixture
def serve(launch, demo, tmp_path):
    config = tmp_path / "mcp-config.json"
    config.write_text(json.dumps({"mcpServers": {"counting": {"command": sys.executable, "args": [str(COUNTING)]}}}))

    def one():
        store = ("--tickets-store", str(tmp_path / "tickets.sqlite"), "--tickets-lease", "0.5")
        exact = ("--compute", "float32", "--no-speculate", "--max-slots", "4")
        return launch("--model", demo, "--mcp-config", str(config), *store, *exact)

    return one


def length(number: int) -> int:
    """Tokens of a work: some are soon done, some outlive more than one server."""
    return (8, 40, 200)[number % 3]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("deaths", [4, pytest.param(30, marks=pytest.mark.slow)])
async def test_every_acknowledged_ticket_ends_once_however_often_its_server_dies(serve, deaths):
    chance, over = random.Random(deaths), asyncio.Event()
    crowd = Crowd(Servers(""))
    followed: set[asyncio.Task[object]] = set()

    async def submit(client: int) -> None:
        number = client
        while not over.is_set():
            tokens = length(number)
            ticket = await crowd.submit(number, work(number, tokens))
            follow = (crowd.follow, crowd.watch, crowd.fetch)[number // CLIENTS % 3]
            followed.add(asyncio.create_task(follow(ticket)))
            await crowd.park(1_000_000 + number, tokens)
            number += CLIENTS

    clients = [asyncio.create_task(submit(client)) for client in range(CLIENTS)]
    for _ in range(deaths):
        server = await asyncio.to_thread(serve)
        crowd.servers.came(0, server.grpc)
        await asyncio.wait(clients, timeout=chance.uniform(0, LONGEST_LIFE), return_when=asyncio.FIRST_EXCEPTION)
        crowd.servers.went(0)
        server.process.kill()
        server.process.wait()
    over.set()
    server = await asyncio.to_thread(serve)
    crowd.servers.came(0, server.grpc)
    await asyncio.gather(*clients)
    await asyncio.gather(*followed)

    assert len(crowd.tickets) > deaths and len(crowd.live) > deaths
    anew = 0
    for number, ticket in crowd.tickets.items():
        before = list(crowd.heard.get(ticket, ()))
        crowd.heard[ticket] = []
        events = await crowd.follow(ticket)
        assert events[: len(before)] == before, "what was delivered is not what was kept"
        check(number, length(number), events, await crowd.fetch(ticket))
        anew += len(attempts(events)) > 1
    for ticket, heard in crowd.live.items():
        events = await crowd.follow(ticket)
        assert [event.generate for event in events[: len(heard)]] == heard
        last = attempts(events)[-1]
        assert [event.generate.HasField("finished") for event in last].count(True) == 1
    for ticket in await crowd.all():  # also those whose caller died before it heard of them
        await crowd.watch(ticket.id)
    found = await crowd.all()
    assert {ticket.state for ticket in found} == {wire.TICKET_STATE_DONE}
    assert len({ticket.id for ticket in found}) == len(found) >= len(crowd.tickets) + len(crowd.live)
    assert {*crowd.tickets.values(), *crowd.live} <= {ticket.id for ticket in found}
    print(f"{deaths} deaths, {len(found)} tickets, {anew} of them began anew")

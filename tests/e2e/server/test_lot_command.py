"""`narthex lot` against a server with tickets: what it prints, and what it does."""

import asyncio
import json
import subprocess
import sys

import pytest
from narthex.v1 import generation_pb2 as text
from narthex.v1 import lot_pb2 as wire
from narthex.v1 import tool_pb2
from narthex.v1.lot_pb2_grpc import LotServiceStub


@pytest.fixture(scope="module")
def server(launch, demo, upstreams):
    return launch("--model", demo, "--mcp-config", str(upstreams), "--max-slots", "4", "--tickets-running", "1")


@pytest.fixture
def narthex_lot(server):
    async def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "narthex.cli.main", "lot", *words, "--server", server.grpc]
        return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)

    return run


async def printed(run, *words: str) -> list[list[str]]:
    done = await run(*words)
    assert done.returncode == 0, done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


async def test_tickets_are_listed_shown_and_cancelled(narthex_lot, channel, settled):
    lot = LotServiceStub(channel)
    endless = wire.Work(call_tool=tool_pb2.ToolInvocation(name="rich__hang"))
    tickets = [(await lot.Submit(wire.SubmitRequest(work=endless))).ticket.id for _ in range(3)]
    async for change in lot.Watch(wire.WatchRequest(ticket_ids=tickets[:1])):
        if change.ticket.state == wire.TICKET_STATE_RUNNING:
            break
    listed = await printed(narthex_lot, "list")
    assert [line[:2] for line in listed] == [
        [tickets[2], "waiting"], [tickets[1], "waiting"], [tickets[0], "running"]
    ]  # fmt: skip
    assert "1 ahead" in listed[0]
    assert [line[0] for line in await printed(narthex_lot, "list", "--state", "running")] == tickets[:1]
    [shown] = await printed(narthex_lot, "show", tickets[0])
    assert shown[1:3] == ["running", "normal"] and shown[3].startswith("submitted ")
    pools = {pool[0]: pool[1:] for pool in await printed(narthex_lot, "pools")}
    assert "1 running" in pools["upstream/rich"] and "0 running" in pools["model/demo"]
    for ticket in tickets:
        [cancelled] = await printed(narthex_lot, "cancel", ticket)
        assert cancelled[:2] == [ticket, "cancelled"]
    whole = json.loads((await narthex_lot("show", tickets[0], "--json")).stdout)
    assert whole[0]["state"] == "TICKET_STATE_CANCELLED"
    missing = await narthex_lot("show", "no-such")
    assert missing.returncode != 0 and "no-such" in missing.stderr and "Traceback" not in missing.stderr


async def test_a_pool_is_resized_and_tickets_wait_while_it_is_drained(narthex_lot, channel):
    lot = LotServiceStub(channel)
    [pool] = await printed(narthex_lot, "resize", "model/demo", "slots=2")
    assert "slots 0/2" in pool
    refused = await narthex_lot("resize", "model/demo", "slots=99")
    assert refused.returncode != 0 and "slots" in refused.stderr
    [pool] = await printed(narthex_lot, "drain", "model/demo")
    assert pool[-1] == "draining"
    work = wire.Work(generate=text.GenerationSpec(text="The time", stopping=text.StoppingOptions(max_tokens=4)))
    ticket = (await lot.Submit(wire.SubmitRequest(work=work))).ticket.id
    watch = aiter(lot.Watch(wire.WatchRequest(ticket_ids=[ticket])))
    while (await anext(watch)).ticket.state == wire.TICKET_STATE_WAITING:
        pass
    [pool] = await printed(narthex_lot, "resume", "model/demo")
    assert pool[-1] != "draining"
    assert [change.ticket.state async for change in watch] == [wire.TICKET_STATE_DONE]

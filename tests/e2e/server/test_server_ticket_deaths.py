"""Tickets outlive their server: killed, told to stop, or cancelled from another one that shares the lot."""

import asyncio
import signal

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from narthex.v1 import common_pb2, tool_pb2
from narthex.v1 import generation_pb2 as text
from narthex.v1 import lot_pb2 as wire
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.lot_pb2_grpc import LotServiceStub

WAIT = Duration(seconds=60)
TOKENS = 600


@pytest.fixture
def served(launch, demo, nothing, tmp_path):
    """Starts another server of the same lot, whose model computes the same whatever else it does."""

    def one(*arguments: str, config=nothing):
        store = ("--tickets-store", str(tmp_path / "tickets.sqlite"), "--tickets-lease", "1")
        exact = ("--compute", "float32", "--no-speculate")
        return launch("--model", demo, "--mcp-config", str(config), *store, *exact, *arguments)

    return one


def long() -> text.GenerationSpec:
    """Without a seed, so that the one that was settled has to be the same again."""
    stopping = text.StoppingOptions(max_tokens=TOKENS, ignore_eos=True)
    return text.GenerationSpec(text="The time", stopping=stopping, response=text.ResponseOptions(token_ids=True))


def events(lot, ticket: str, after: int = 0):
    return lot.Fetch(wire.FetchRequest(ticket_id=ticket, events=True, after_sequence=after, wait=WAIT))


def ids(found: list[wire.WorkEvent]) -> list[int]:
    return [token for event in found for token in event.generate.text_delta.token_ids]


async def some_events(lot, ticket: str, count: int) -> list[wire.WorkEvent]:
    call = events(lot, ticket)
    found = [(await call.read()).event for _ in range(count)]
    call.cancel()
    return found


async def test_no_ticket_and_no_token_is_lost_when_a_server_is_killed(served):
    first = served()
    async with grpc.aio.insecure_channel(first.grpc) as channel:
        lot = LotServiceStub(channel)
        work = wire.Work(generate=long())
        tickets = [(await lot.Submit(wire.SubmitRequest(work=work))).ticket.id for _ in range(3)]
        delivered = await some_events(lot, tickets[0], 5)
    first.process.kill()
    first.process.wait()
    async with grpc.aio.insecure_channel(served().grpc) as channel:
        lot = LotServiceStub(channel)
        rest = [one.event async for one in events(lot, tickets[0], delivered[-1].sequence)]
        whole = [one.event async for one in events(lot, tickets[0])]
        assert whole == delivered + rest
        assert [event.sequence for event in whole] == list(range(1, len(whole) + 1))
        assert not any(event.HasField("restarted") for event in whole)
        assert len(ids(whole)) == TOKENS and whole[-1].generate.HasField("finished")
        for ticket in tickets[1:]:
            found = [one async for one in lot.Fetch(wire.FetchRequest(ticket_id=ticket, wait=WAIT))]
            assert len(found[0].generate.token_ids) == TOKENS


async def test_a_parked_call_goes_on_after_its_server_was_killed(served):
    first = served()
    options = common_pb2.CallOptions(on_disconnect=common_pb2.ON_DISCONNECT_PARK)
    async with grpc.aio.insecure_channel(first.grpc) as channel:
        call = GenerationServiceStub(channel).GenerateStream(text.GenerateStreamRequest(spec=long(), options=options))
        heard = [await call.read() for _ in range(4)]
        first.process.kill()
        first.process.wait()
        with pytest.raises(grpc.aio.AioRpcError):
            while message := await call.read():
                heard.append(message)
    async with grpc.aio.insecure_channel(served().grpc) as channel:
        found = [one.event async for one in events(LotServiceStub(channel), heard[0].started.request_id)]
        assert [event.generate for event in found[: len(heard)]] == heard
        assert len(ids(found)) == TOKENS


async def test_what_may_have_acted_is_not_begun_again(served, failure, upstreams, upstreams_up):
    first = served(config=upstreams)
    async with grpc.aio.insecure_channel(first.grpc) as channel:
        await upstreams_up(channel)
        lot = LotServiceStub(channel)
        work = wire.Work(call_tool=tool_pb2.ToolInvocation(name="rich__hang"))
        ticket = (await lot.Submit(wire.SubmitRequest(work=work))).ticket.id
        async for change in lot.Watch(wire.WatchRequest(ticket_ids=[ticket])):
            if change.ticket.state == wire.TICKET_STATE_RUNNING:
                break
    first.process.kill()
    first.process.wait()
    async with grpc.aio.insecure_channel(served().grpc) as channel:
        lot = LotServiceStub(channel)
        caught = await failure(lot.Fetch(wire.FetchRequest(ticket_id=ticket, wait=WAIT)))
        assert (caught.code, caught.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INTERRUPTED")


async def test_a_server_that_is_told_to_stop_gives_its_work_back(served):
    first = served("--shutdown-grace", "0.2")
    async with grpc.aio.insecure_channel(first.grpc) as channel:
        lot = LotServiceStub(channel)
        ticket = (await lot.Submit(wire.SubmitRequest(work=wire.Work(generate=long())))).ticket.id
        delivered = await some_events(lot, ticket, 5)
    first.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(first.process.wait, 30) == 0
    async with grpc.aio.insecure_channel(served().grpc) as channel:
        found = [one.event async for one in events(LotServiceStub(channel), ticket)]
        assert found[:5] == delivered and len(ids(found)) == TOKENS
        assert not any(event.HasField("restarted") for event in found)


async def test_two_servers_of_one_lot_follow_and_cancel_each_others_tickets(served):
    servers = served(), served()
    async with grpc.aio.insecure_channel(servers[0].grpc) as one, grpc.aio.insecure_channel(servers[1].grpc) as other:
        options = common_pb2.CallOptions(on_disconnect=common_pb2.ON_DISCONNECT_PARK)
        spec = long()
        spec.stopping.ClearField("max_tokens")
        call = GenerationServiceStub(one).GenerateStream(text.GenerateStreamRequest(spec=spec, options=options))
        ticket = (await call.read()).started.request_id
        lot = LotServiceStub(other)
        seen = await some_events(lot, ticket, 3)
        assert [event.sequence for event in seen] == [1, 2, 3]
        await lot.Cancel(wire.CancelRequest(ticket_id=ticket))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with asyncio.timeout(5):
                while await call.read():
                    pass
        assert caught.value.code() is grpc.StatusCode.CANCELLED
        assert servers[0].metric("narthex_num_requests_running", model_name="demo") == 0

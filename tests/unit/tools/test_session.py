import asyncio
import json

import pytest
from mcp.shared.exceptions import MCPError
from narthex_server.errors import ResourceExhausted
from narthex_server.tools.upstream.lines import LongLine
from narthex_server.tools.upstream.session import Session


class Ends:
    """A peer in this process: what is written to it, and what it says."""

    name, longest = "ends", 100

    def __init__(self) -> None:
        self.said: asyncio.Queue[list[bytes | LongLine]] = asyncio.Queue()
        self.written: asyncio.Queue[dict] = asyncio.Queue()
        self.skipped: list[bytes] = []
        self.broken = False

    def say(self, **message: object) -> None:
        self.said.put_nowait([json.dumps({"jsonrpc": "2.0", **message}).encode()])

    def hang_up(self) -> None:
        self.said.put_nowait([])

    async def read(self) -> list[bytes | LongLine]:
        return await self.said.get()

    def write(self, line: bytes) -> None:
        if self.broken:
            raise BrokenPipeError
        self.written.put_nowait(json.loads(line))

    async def drain(self) -> None:
        await asyncio.sleep(0)

    def skip(self, line: bytes) -> None:
        self.skipped.append(line)


class Handlers:
    """What the SDK's client does with what the peer sends by itself."""

    def __init__(self) -> None:
        self.notified: asyncio.Queue[tuple[str, object]] = asyncio.Queue()
        self.gate = asyncio.Event()

    async def on_request(self, context, method, params):
        if method == "wait":
            await self.gate.wait()
        if method == "fail":
            raise KeyError("secret")
        return {"asked": method}

    async def on_notify(self, context, method, params):
        await self.notified.put((method, params))


@pytest.fixture
async def peer():
    return Ends()


@pytest.fixture
async def handlers():
    return Handlers()


@pytest.fixture
async def session(peer, handlers):
    session = Session(peer)
    running = asyncio.create_task(session.run(handlers.on_request, handlers.on_notify))
    yield session
    peer.hang_up()
    await running


def called(session: Session, **params: object) -> asyncio.Task:
    return asyncio.create_task(session.call(params))


async def test_answers_find_their_calls_in_whatever_order_they_come(session, peer):
    calls = [called(session, name=str(n)) for n in range(3)]
    requests = [await peer.written.get() for _ in calls]
    for request in reversed(requests):
        peer.say(id=request["id"], result={"content": [], "is": request["params"]["name"]})
    assert [(await call)["is"] for call in calls] == ["0", "1", "2"]


async def test_wrong_unknown_and_doubled_answers_are_nobodys(session, peer):
    call = called(session, name="a")
    number = (await peer.written.get())["id"]
    for wrong in (number + 1, str(number) + "x", None, True, 1.5):
        peer.say(id=wrong, result={"content": ["wrong"]})
    peer.said.put_nowait([b"garbage", b"[]", b'{"jsonrpc":"2.0"}'])
    peer.say(id=number, result={"content": []})
    peer.say(id=number, result={"content": ["again"]})
    assert await call == {"content": []}
    assert b"garbage" in peer.skipped and b"[]" in peer.skipped


async def test_an_id_that_comes_back_as_a_string_is_the_same(session, peer):
    call = called(session)
    peer.say(id=str((await peer.written.get())["id"]), result={"content": []})
    assert await call == {"content": []}


async def test_an_error_is_the_peers_own(session, peer):
    call = called(session)
    peer.say(id=(await peer.written.get())["id"], error={"code": -32000, "message": "no luck", "data": [1]})
    with pytest.raises(MCPError, match="no luck") as caught:
        await call
    assert (caught.value.error.code, caught.value.error.data) == (-32000, [1])


async def test_whoever_stops_waiting_has_the_call_cancelled_there(session, peer):
    call = called(session)
    number = (await peer.written.get())["id"]
    call.cancel()
    await asyncio.wait({call})
    assert await peer.written.get() == {
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": {"requestId": number},
    }


async def test_the_end_of_the_connection_ends_every_call_and_refuses_more(session, peer):
    calls = [called(session), called(session)]
    for _ in calls:
        await peer.written.get()
    peer.hang_up()
    for call in calls:
        with pytest.raises(MCPError, match="closed"):
            await call
    with pytest.raises(MCPError, match="closed"):
        await session.call({})


async def test_a_peer_that_takes_nothing_is_an_end_of_the_connection(session, peer):
    peer.broken = True
    with pytest.raises(MCPError, match="closed"):
        await session.call({})


async def test_a_long_line_fails_the_call_whose_id_it_has(session, peer):
    first, second = called(session), called(session)
    numbers = [(await peer.written.get())["id"] for _ in range(2)]
    peer.said.put_nowait([LongLine(f'{{"jsonrpc":"2.0","id":{numbers[1]},"result":{{'.encode(), b"}}", 12345)])
    with pytest.raises(ResourceExhausted, match="12345 bytes; at most 100"):
        await second
    assert not first.done()
    peer.say(id=numbers[0], result={"content": []})
    await first


async def test_progress_reaches_the_call_that_asked_for_it_and_no_other(session, peer):
    told: list[tuple] = []
    call = asyncio.create_task(session.call({"name": "a"}, lambda *step: told.append(step)))
    request = await peer.written.get()
    token = request["params"]["_meta"]["progressToken"]
    peer.say(method="notifications/progress", params={"progressToken": token, "progress": 1, "total": 2})
    peer.say(method="notifications/progress", params={"progressToken": "other", "progress": 9})
    peer.say(method="notifications/progress", params={"progressToken": token, "progress": "odd"})
    peer.say(id=request["id"], result={"content": []})
    await call
    assert told == [(1.0, 2.0, None)]


async def test_the_peers_requests_are_answered_beside_each_other(session, peer, handlers):
    peer.say(id="a", method="wait")
    peer.say(id=2, method="quick", params={})
    assert await peer.written.get() == {"jsonrpc": "2.0", "id": 2, "result": {"asked": "quick"}}
    handlers.gate.set()
    assert (await peer.written.get())["id"] == "a"


async def test_a_handler_that_breaks_is_an_internal_error_that_tells_nothing(session, peer, caplog):
    peer.say(id=1, method="fail")
    answer = await peer.written.get()
    assert answer["error"]["code"] == -32603 and "secret" not in json.dumps(answer)
    assert "cannot be answered" in caplog.text


async def test_a_request_that_the_peer_takes_back_is_not_answered(session, peer, handlers):
    peer.say(id=1, method="wait")
    peer.say(method="notifications/cancelled", params={"requestId": 1})
    assert await handlers.notified.get() == ("notifications/cancelled", {"requestId": 1})
    handlers.gate.set()
    peer.say(id=2, method="quick")
    assert (await peer.written.get())["id"] == 2


async def test_a_request_with_a_limit_ends_there_as_the_sdk_has_it(session, peer):
    with pytest.raises(MCPError, match="timed out"):
        await session.send_raw_request("tools/list", None, {"timeout": 0.01})
    assert [(await peer.written.get())["method"] for _ in range(2)] == ["tools/list", "notifications/cancelled"]

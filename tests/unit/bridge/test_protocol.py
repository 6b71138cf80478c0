"""The protocol core by itself: no server, no sockets."""

import asyncio
import itertools
import json

import pytest
from narthex_bridge.mcp.exchange import Exchange
from narthex_bridge.mcp.framing import MessageFraming
from narthex_bridge.outbox import Outbox
from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.call import ToolCall
from narthex_bridge.protocol.eras import ERAS, LATEST_SESSION, negotiate
from narthex_bridge.protocol.events import Progress, Result, TextDelta
from narthex_bridge.protocol.failures import BackendError, rpc_error
from narthex_bridge.protocol.jsonrpc import Request, parse


@pytest.mark.parametrize(
    "arguments",
    [
        "{}",
        '{"a":[1,2,{"b":"}"}],"c":"\\"arguments\\":{}"}',
        '{ "n" :\t123456789012345678901234567890.10, "s" : "\\u00e9\\n" }',
        '{"params":{"arguments":{}}}',
    ],
)
def test_the_source_of_arguments_is_cut_out_exactly(arguments):
    for text in (
        f'{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"name":"x","arguments":{arguments},"z":[{{}}]}}}}',
        f'\n{{ "params" : {{ "arguments" : {arguments} }} , "jsonrpc":"2.0","id":1,"method":"m" }}\n',
        f'{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"arguments":{{"old":1}},"\\u0061rguments":{arguments}}}}}',
        f'{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"arguments":{{}}}},"params":{{"arguments":{arguments}}}}}',
    ):
        message = parse(text.encode())
        assert isinstance(message, Request)
        assert message.arguments == arguments.encode()
        (in_batch,) = parse(f"[{text}]".encode())
        assert in_batch == message


def test_a_batch_has_a_limit():
    with pytest.raises(jsonrpc.RpcError, match="at most"):
        parse(json.dumps([{}] * (jsonrpc.MAX_BATCH + 1)).encode())


def test_progress_always_increases():
    call = ToolCall(1, LATEST_SESSION, "t", None)
    events = [Progress(5.0, 10.0, ""), Progress(5.0, 10.0, ""), TextDelta("a"), TextDelta(""), Progress(2.0, None, "")]
    told = [json.loads(message)["params"]["progress"] for event in events if (message := call.notify(event))]
    assert told[0] == 5 and len(told) == 4
    assert all(later > earlier for earlier, later in itertools.pairwise(told))


def test_text_for_a_client_that_lags_comes_together():
    call = ToolCall(1, LATEST_SESSION, "t", None)
    assert call.notify(TextDelta("a")) and call.rest() is None
    assert call.notify(TextDelta("b"), lagging=True) is None and call.notify(TextDelta("c"), lagging=True) is None
    told = [
        json.loads(message)["params"]["message"] for message in (call.notify(TextDelta("d")), call.rest()) if message
    ]
    assert told == ["bcd"]
    call.notify(TextDelta("e"), lagging=True)
    assert json.loads(call.rest())["params"]["message"] == "e" and call.rest() is None


def test_versions_are_negotiated():
    assert negotiate("2025-03-26") is ERAS["2025-03-26"]
    assert negotiate("2030-01-01") is LATEST_SESSION


def test_every_response_of_an_older_version_is_without_structured_content():
    result = Result(b"[]", b'{"a":1}', False)
    for version, expected in (("2025-03-26", False), ("2025-06-18", True)):
        answer = json.loads(ToolCall(1, ERAS[version], None, None).result(result))["result"]
        assert ("structuredContent" in answer) is expected


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        ("INVALID_ARGUMENT", -32602, False),
        ("NOT_FOUND", -32602, False),
        ("RESOURCE_EXHAUSTED", 429, True),
        ("UNAVAILABLE", 503, True),
        ("DEADLINE_EXCEEDED", 504, False),
        ("INTERNAL", -32603, False),
        ("SOMETHING_NEW", -32603, False),
    ],
)
def test_statuses_have_one_code_each(status, code, retryable):
    error = rpc_error(BackendError(status, "text"), "id")
    assert error.data is not None
    assert (error.code, error.data["retryable"], error.data["requestId"]) == (code, retryable, "id")


async def test_an_outbox_gives_all_that_waits_and_then_ends():
    outbox = Outbox(limit=2)
    assert await outbox.take(0.001) == []
    await outbox.put(b"1")
    await outbox.put(b"2")
    third = asyncio.create_task(outbox.put(b"3"))
    assert await outbox.take(5) == [b"1", b"2"]
    await asyncio.wait_for(third, 5)
    outbox.close()
    assert await outbox.take(5) == [b"3"]
    assert await outbox.take(5) is None
    assert not outbox.offer(b"4")


async def test_an_exchange_that_never_began_to_stream_still_ends_its_work():
    class NeverAnswers:
        def start(self, request, session, request_id, responder):
            return asyncio.create_task(asyncio.Event().wait())

    exchange = Exchange(MessageFraming(), 1, keepalive_s=1)
    exchange.start(NeverAnswers(), [Request(1, "m", {})], None, "id")
    (task,) = exchange._tasks
    await exchange.aclose()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)

import json

import pytest
from narthex_server.tools.upstream import jsonrpc
from narthex_server.tools.upstream.lines import KEPT, LongLine

BODY = {"content": [{"type": "text", "text": 'a "quoted" word, "id":9} ' + "x" * 3 * KEPT}]}


def ends(text: str) -> LongLine:
    line = text.encode()
    return LongLine(line[:KEPT], line[-KEPT:], len(line))


@pytest.mark.parametrize("number", [7, -1, 0, "seven", ""])
@pytest.mark.parametrize("separators", [(",", ":"), (" , ", " : ")])
@pytest.mark.parametrize("order", ["jsonrpc id result", "id jsonrpc result", "result id jsonrpc", "jsonrpc result id"])
def test_the_id_of_a_response_is_found_at_either_end(number, separators, order):
    values = {"jsonrpc": "2.0", "id": number, "result": BODY}
    text = json.dumps({name: values[name] for name in order.split()}, separators=separators)
    assert jsonrpc.id_of(ends(text)) == number


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": BODY}),
        json.dumps({"jsonrpc": "2.0", "result": {**BODY, "id": 3}}),
        json.dumps({"result": {"id": 3, **BODY}, "jsonrpc": "2.0"}),
        json.dumps({"jsonrpc": "2.0", "id": None, "result": BODY}),
        json.dumps({"jsonrpc": "2.0", "id": 1.5, "result": BODY}),
        "x" * 3 * KEPT,
    ],
)
def test_what_is_inside_or_no_id_is_not_taken_for_one(text):
    assert jsonrpc.id_of(ends(text)) is None


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"[]",
        b'{"id":1,"result":{}}',
        b'{"jsonrpc":"2.0","result":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":[]}',
        b'{"jsonrpc":"2.0","id":1,"error":"no"}',
        b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}',
        b'{"jsonrpc":"2.0","method":"ping","params":[1]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_none(line):
    assert jsonrpc.read(line) is None


def test_a_request_is_one_line_and_comes_back_as_it_was():
    params = {"b": 2**70, "a": "line\nbreak \ud800"}
    line = jsonrpc.request(3, "tools/call", params)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert jsonrpc.read(line) == {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": params}

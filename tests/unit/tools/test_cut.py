import io
import json

import pytest
from narthex_server.tools.upstream import jsonrpc
from narthex_server.tools.upstream.cut import LENGTH, cut, serve

TEXT = {"type": "text", "text": "é"}


def answer(result: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 4, "result": result}).encode()


def frames(raw: bytes) -> list[bytes]:
    found = []
    while raw:
        size = int.from_bytes(raw[:LENGTH])
        found.append(raw[LENGTH : LENGTH + size])
        raw = raw[LENGTH + size :]
    return found


def test_what_is_passed_on_of_a_result_is_cut_out():
    raw = answer({"content": [TEXT], "isError": True, "structuredContent": {"b": 2**70, "a": 1}, "_meta": {"x": 1}})
    head, *parts = cut(raw)
    assert json.loads(head) == {
        "message": {"jsonrpc": "2.0", "id": 4, "result": {"isError": True, "_meta": {"x": 1}}},
        "parts": ["content", "structuredContent"],
    }
    assert parts == ['[{"type":"text","text":"é"}]'.encode(), b'{"b":1180591620717411303424,"a":1}']


@pytest.mark.parametrize("result", [{"content": [1]}, {"content": "x"}, {}, {"structuredContent": {}}])
def test_of_what_is_no_result_of_a_call_nothing_is_left(result):
    assert [json.loads(frame) for frame in cut(answer(result))] == [
        {"message": {"jsonrpc": "2.0", "id": 4, "result": {}}, "parts": []}
    ]


@pytest.mark.parametrize(
    "line",
    [
        answer({"resultType": "input_required", "inputRequests": {"a": {"method": "roots/list"}}, "requestState": "s"}),
        json.dumps({"jsonrpc": "2.0", "id": 4, "error": {"code": 1, "message": "no"}}).encode(),
    ],
)
def test_other_answers_stay_whole(line):
    assert [json.loads(frame) for frame in cut(line)] == [{"message": jsonrpc.read(line), "parts": []}]


@pytest.mark.parametrize("line", [b"nothing", b"[" * 100_000, b""])
def test_what_is_no_message_is_null(line):
    assert [json.loads(frame) for frame in cut(line)] == [{"message": None, "parts": []}]


def test_one_answer_after_the_other_until_there_are_no_more():
    lines = [answer({"content": [TEXT]}), b"nothing", answer({"content": []})]
    out = io.BytesIO()
    serve(io.BytesIO(b"".join(len(line).to_bytes(LENGTH) + line for line in lines)), out)
    assert frames(out.getvalue()) == [frame for line in lines for frame in cut(line)]

"""Whatever bytes come: a message, or an error that says what is wrong with them."""

import json

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from narthex_bridge.protocol import envelope, methods
from narthex_bridge.protocol.call import ToolCall
from narthex_bridge.protocol.eras import ERAS
from narthex_bridge.protocol.events import Log, Progress, Result, TextDelta
from narthex_bridge.protocol.jsonrpc import MAX_DEPTH, Answer, Invalid, Notification, Request, RpcError, parse
from narthex_bridge.protocol.seal import Seal

numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
known = st.sampled_from(sorted(methods.METHODS))
meta = st.fixed_dictionaries(
    {},
    optional={
        envelope.VERSION: st.sampled_from([*ERAS, "2030-01-01", 3]),
        envelope.CAPABILITIES: st.just({}) | values,
        envelope.LOG_LEVEL: st.sampled_from([*methods.LOG_LEVELS, "loud"]),
        "progressToken": values,
    },
)
members = {
    name: values | st.text(max_size=5)
    for name in ("name", "uri", "cursor", "arguments", "level", "protocolVersion", "ref", "argument", "notifications")
}
params = st.fixed_dictionaries({}, optional={**members, "_meta": meta | values, "inputResponses": values})
messages = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0") | scalars},
    optional={"id": scalars, "method": known | scalars, "params": params | values, "result": values, "error": values},
)


def spelled(value):
    """JSON as different writers spell it."""
    return st.sampled_from([{}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (",", ":")}]).map(
        lambda style: json.dumps(value, **style).encode()
    )


def check(body: bytes) -> None:
    """Nothing but RpcError ever comes of it, and what comes can be relied on."""
    try:
        parsed = parse(body)
    except RpcError:
        return
    for message in parsed if isinstance(parsed, list) else [parsed]:
        assert isinstance(message, Request | Notification | Answer | Invalid)
        if not isinstance(message, Request):
            continue
        if "arguments" in message.params:
            assert orjson.loads(message.arguments) == message.params["arguments"]
        envelope.stateless({}, [message])
        for era in ERAS.values():
            for step in (
                lambda message=message, era=era: methods.read(message, era),
                lambda message=message: envelope.read(message, {}),
            ):
                try:
                    step()
                except RpcError as error:
                    assert error.message


@given(st.binary(max_size=200))
def test_any_bytes(body):
    check(body)


@given(messages.flatmap(spelled))
@settings(max_examples=300)
def test_anything_like_a_message(body):
    check(body)


@given(st.lists(messages, max_size=4).flatmap(spelled))
def test_anything_like_a_batch(body):
    check(body)


@given(messages.flatmap(spelled), st.data())
def test_messages_cut_or_changed_anywhere(body, data):
    at = data.draw(st.integers(0, len(body)))
    check(body[:at])
    check(body[:at] + data.draw(st.binary(max_size=3)) + body[at:])


@given(st.integers(1, 3 * MAX_DEPTH), st.sampled_from([b"[%b]", b'{"a":%b}']))
def test_depth_is_bounded(depth, wrapping):
    body = b"1"
    for _ in range(depth):
        body = wrapping.replace(b"%b", body)
    check(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":%b}}}' % body)


events = st.one_of(
    st.builds(Progress, st.floats(), st.none() | st.floats(), st.text(max_size=5)),
    st.builds(TextDelta, st.text(max_size=5)),
    st.builds(Log, st.sampled_from(methods.LOG_LEVELS), st.text(max_size=3), st.just(b'"x"')),
)


@given(st.lists(events, max_size=20), st.sampled_from([None, "t", 7]), st.sampled_from([None, *methods.LOG_LEVELS]))
def test_a_call_tells_what_was_wanted_and_only_forward(told, token, level):
    call, last = ToolCall(1, ERAS["2025-11-25"], token, level), None
    for event in told:
        if (message := call.notify(event)) is None:
            continue
        note = json.loads(message)
        if note["method"] == "notifications/progress":
            assert note["params"]["progressToken"] == token
            assert last is None or note["params"]["progress"] > last
            last = note["params"]["progress"]
        else:
            assert methods.LOG_LEVELS.index(note["params"]["level"]) >= methods.LOG_LEVELS.index(level)
    assert json.loads(call.result(Result(b"[]", b"", False)))["id"] == 1


@given(st.binary(max_size=40), st.text(max_size=10), st.text(max_size=10), st.text(max_size=60))
def test_a_seal_opens_for_its_purpose_alone(content, purpose, other, forged):
    seal = Seal(b"s" * 32)
    closed = seal.close(purpose, content, 60)
    assert seal.open(purpose, closed) == content
    assert seal.open(purpose, forged) is None
    assert seal.open(other, closed) == (content if other == purpose else None)
    assert Seal(b"t" * 32).open(purpose, closed) is None
    assert seal.open(purpose, seal.close(purpose, content, -5)) is None

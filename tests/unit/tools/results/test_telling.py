import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from narthex_server.principal import LOCAL
from narthex_server.tools.arguments import parse_arguments
from narthex_server.tools.inputs import Inputs
from narthex_server.tools.mcp_context import McpContext
from narthex_server.tools.results.telling import MAX_BYTES, digest
from narthex_server.tools.step import Invocation
from narthex_server.tools.tool import CallContext, Tool

TOOL = Tool("s__t", "", "", b"{}", server="s", own_name="t")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=3).filter(str.isprintable), JSON, max_size=4)


def of(raw: str, inputs: bool = False, **mcp: object) -> bytes | None:
    context = CallContext(LOCAL, "test", mcp=McpContext(**mcp), inputs=Inputs("1") if inputs else None)
    return digest(Invocation(TOOL, raw.encode(), parse_arguments(raw.encode()), context))


def typed(value: object) -> object:
    """Numbers of two types are no equals here, other than in Python."""
    match value:
        case dict():
            return {key: typed(inner) for key, inner in value.items()}
        case list():
            return [typed(inner) for inner in value]
        case _:
            return type(value).__name__, repr(value)


@given(OBJECTS, OBJECTS)
def test_calls_are_the_same_if_and_only_if_their_arguments_are(one, other):
    raw = [json.dumps(value) for value in (one, other)]
    if any("\\ud" in text for text in raw):
        return  # half characters are no arguments
    assert (of(raw[0]) == of(raw[1])) == (typed(one) == typed(other))
    turned = json.dumps(dict(reversed(one.items())), indent=2, ensure_ascii=False)
    assert of(raw[0]) == of(turned)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1}', '{"a":1.0}'), ('{"a":1}', '{"a":true}'), ('{"a":0}', '{"a":false}'), ('{"a":null}', "{}"),
        ('{"a":0.0}', '{"a":-0.0}'), ('{"a":"1"}', '{"a":1}'), ('{"a":[1,2]}', '{"a":[2,1]}'),
        ('{"a":9007199254740993}', '{"a":9007199254740992}'),
        ('{"a":18446744073709551617}', '{"a":18446744073709551616}'),
        ('{"a":18446744073709551616}', '{"a":18446744073709551616.0}'), ('{"a":"é"}', '{"a":"e\\u0301"}'),
        ('{"a":{"b":1}}', '{"a":{},"b":1}'), ('{"a":1,"a":2}', '{"a":1}'),
    ],
)  # fmt: skip
def test_what_differs_has_another_key(one, other):
    assert of(one) != of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1,"b":{"c":2,"d":3}}', ' { "b": {"d":3,"c":2}, "a":1 } '), ('{"a":1e2}', '{"a":100.0}'),
        ('{"a":0.1}', '{"a":0.10}'), ('{"a":"\\u00e9"}', '{"a":"é"}'), ("", "{}"), ('{"a":1,"a":2}', '{"a":2}'),
    ],
)  # fmt: skip
def test_what_is_spelt_otherwise_has_the_same(one, other):
    assert of(one) == of(other)


def test_what_the_tool_is_told_of_its_caller_counts():
    plain = of("{}")
    others = {of("{}", True), of("{}", capabilities={"roots": {}}), of("{}", meta={"com.example/who": "ann"})}
    assert len({plain, *others}) == 4
    names = {"progressToken": 7, "traceparent": "00-1-2-01", "tracestate": "", "baggage": ""}
    assert of("{}", meta=names | {"com.example/who": "ann"}) in others
    assert of("{}", meta={"progressToken": 1}) == of("{}", meta={"progressToken": 2})


def test_callers_who_bring_other_tokens_are_told_other_things():
    def with_tokens(**tokens: str) -> bytes | None:
        return digest(Invocation(TOOL, b"{}", {}, CallContext(LOCAL, "test", upstream_tokens=tokens)))

    assert len({of("{}"), with_tokens(s="one"), with_tokens(s="two")}) == 3
    assert with_tokens(other="x") == of("{}"), "it is not for this server"


def test_some_have_no_key():
    assert of('{"a":1e999}') is None
    assert of(json.dumps({"a": "x" * MAX_BYTES})) is None

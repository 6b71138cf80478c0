"""W3C Trace Context."""

import pytest
from narthex.tracing.context import TraceContext, sent

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


def test_a_parent_is_read_and_written_as_it_came():
    read = TraceContext.of({"traceparent": PARENT, "tracestate": "a=1,b=2", "other": 3})
    assert read == TraceContext(TRACE_ID, SPAN_ID, 1, "a=1,b=2")
    assert read.carried() == {"traceparent": PARENT, "tracestate": "a=1,b=2"}


@pytest.mark.parametrize(
    "text",
    [
        "", "x", PARENT.upper(), PARENT + "-more", PARENT[:-1], f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01", f"00-{TRACE_ID}-{'0' * 16}-01", f"00-{TRACE_ID}-{SPAN_ID}", 7, None,
        PARENT + "\n-",
    ],
)  # fmt: skip
def test_what_is_no_parent_is_none(text):
    assert TraceContext.of({"traceparent": text}) is None


def test_versions_to_come_are_read_as_the_first():
    assert TraceContext.parse(f"cc-{TRACE_ID}-{SPAN_ID}-09-more").carried() == {"traceparent": PARENT}


@pytest.mark.parametrize("state", ["x" * 513, "a=\n", "ä=1", 7, None, b"a=1"])
def test_a_state_that_cannot_be_carried_is_left_out(state):
    assert TraceContext.parse(PARENT, state).state == ""


def test_metadata_of_an_rpc_is_read():
    assert sent((("x", "y"), ("tracestate", "a=1"), ("traceparent", PARENT))).state == "a=1"
    assert sent((("traceparent", b"\xff"),)) is None and sent(None) is None

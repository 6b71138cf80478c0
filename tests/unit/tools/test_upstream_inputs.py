import json

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError
from narthex_server.tools.inputs import Answer
from narthex_server.tools.mcp_context import McpContext
from narthex_server.tools.upstream.inputs import lacking, lacks, offered, reader, refusal, request_params, requests_of

FORM, URL, SAMPLE, ROOTS = "elicitation/create", "elicitation/create", "sampling/createMessage", "roots/list"


@pytest.mark.parametrize(
    ("method", "params", "capabilities", "needed"),
    [
        (FORM, {}, {"elicitation": {}}, {}),
        (FORM, {"mode": "form"}, {"elicitation": {"form": {}}}, {}),
        (FORM, {}, {"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}),
        (URL, {"mode": "url"}, {"elicitation": {"url": {}}}, {}),
        (URL, {"mode": "url"}, {"elicitation": {}}, {"elicitation": {"url": {}}}),
        (SAMPLE, {}, {"sampling": {}}, {}),
        (SAMPLE, {"tools": []}, {"sampling": {}}, {"sampling": {"tools": {}}}),
        (SAMPLE, {"toolChoice": {}}, {"sampling": {"tools": {}}}, {}),
        (SAMPLE, {}, {"sampling": None}, {"sampling": {}}),
        (ROOTS, {}, {"roots": {"listChanged": True}}, {}),
        (ROOTS, {}, {}, {"roots": {}}),
    ],
)
def test_what_a_request_needs_and_a_caller_lacks(method, params, capabilities, needed):
    assert lacking(method, params, capabilities) == needed


def test_an_upstream_may_count_on_the_caller_and_on_our_model():
    own = {"roots": {}, "sampling": {"context": {}}}
    assert offered(own, "client") == own
    assert offered(own, "refuse") == {"roots": {}}
    assert offered({}, "model") == {"sampling": {"tools": {}}}


def test_reserved_keys_are_not_the_callers_to_set():
    context = McpContext({}, "debug", {"io.modelcontextprotocol/x": 1, "progressToken": 1, "a": 2}, {"r": {}}, "s")
    assert request_params(context, modern=False) == {"_meta": {"a": 2}}
    assert request_params(context, modern=True) == {
        "inputResponses": {"r": {}}, "requestState": "s",
        "_meta": {"a": 2, "io.modelcontextprotocol/logLevel": "debug"},
    }  # fmt: skip
    assert request_params(McpContext(log_level="off"), modern=True) == {}


def test_requests_come_as_they_are():
    (one,) = requests_of({"inputRequests": {"k": {"method": ROOTS}}})
    assert (one.id, one.method, one.params) == ("k", ROOTS, b"{}")
    assert requests_of({"requestState": "s"}) == ()


@pytest.mark.parametrize(
    "data", [None, [], {}, {"requiredCapabilities": 3}, {"requiredCapabilities": {"sampling": {"x": "y" * 999}}}]
)
def test_what_is_required_is_json_however_an_upstream_puts_it(data):
    error = refusal(MCPError(-32021, "no", data), McpContext(), "u")
    required = error.metadata["required_capabilities"]
    assert isinstance(json.loads(required), dict) and len(required) <= 200
    assert error.reason == "MISSING_CLIENT_CAPABILITY"


def test_an_error_is_about_the_answers_only_where_there_were_some():
    again = McpContext(request_state="s")
    assert refusal(MCPError(-32602, "bad state"), McpContext(), "u") is None
    assert refusal(MCPError(-32602, "bad state"), again, "u").reason == "INVALID_REQUEST_STATE"
    assert refusal(MCPError(-32000, "closed"), again, "u") is None, "the connection, not the answers"
    assert lacks({"roots": {}}, "u").metadata["required_capabilities"] == '{"roots":{}}'


@pytest.mark.parametrize("answer", [Answer("1", approved=True), Answer("1", result={}), Answer("1", error={})])
def test_an_approval_is_no_answer_to_an_upstream(answer):
    with pytest.raises(ValueError):
        reader(types.ElicitResult)(answer)

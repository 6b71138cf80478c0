import pytest
from narthex.v1 import tool_pb2 as wire
from narthex_server.errors import InvalidRequest
from narthex_server.services.mcp_context import answers_of, input_required_to_wire, level_of, mcp_context
from narthex_server.tools.inputs import Answer
from narthex_server.tools.mcp_context import PLAIN, McpContext
from narthex_server.tools.tool import InputRequest, InputRequired


def test_nothing_is_a_plain_caller():
    assert mcp_context(wire.McpContext()) == PLAIN == McpContext()
    assert not PLAIN.is_again


def test_everything_is_read():
    message = wire.McpContext(
        client_capabilities=b'{"roots":{}}', log_level=wire.LOG_LEVEL_OFF, meta=b'{"a":1}',
        input_responses=b'{"r":{}}', request_state="ä".encode(),
    )  # fmt: skip
    context = mcp_context(message)
    assert context == McpContext({"roots": {}}, "off", {"a": 1}, {"r": {}}, "ä") and context.is_again


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("client_capabilities", b"[]"),
        ("meta", b"{"),
        ("meta", b'{"a":"\\ud800"}'),
        ("input_responses", b'{"a":' * 200 + b"1" + b"}" * 200),
        ("request_state", b"\xff"),
    ],
)
def test_garbage_is_refused_by_the_name_of_its_field(field, value):
    with pytest.raises(InvalidRequest) as caught:
        mcp_context(wire.McpContext(**{field: value}))
    assert [violation.field for violation in caught.value.violations] == [f"mcp.{field}"]


def test_levels_have_names():
    names = [level_of(level) for level in wire.LogLevel.values()]
    assert names[:3] == ["info", "debug", "info"] and names[-2:] == ["emergency", "off"]
    with pytest.raises(InvalidRequest):
        level_of(77)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", [None, "", "s", "\ud800"])
def test_a_state_is_there_or_not_and_may_be_empty(state):
    message = input_required_to_wire(InputRequired("c", (InputRequest("1", "roots/list", b"{}"),), state))
    assert message.HasField("request_state") is (state is not None)
    assert (message.requests[0].id, message.requests[0].mcp.method) == ("1", "roots/list")


def test_answers_are_results_errors_or_approvals():
    good = [
        wire.InputResponse(id="1", result=b'{"a":1}'),
        wire.InputResponse(id="2", error=b'{"code":1}'),
        wire.InputResponse(id="3", approved=False, reason="no"),
    ]
    answers = answers_of(wire.RespondRequest(responses=good))
    assert answers[:2] == [Answer("1", result={"a": 1}), Answer("2", error={"code": 1})]
    assert answers[2] == Answer("3", approved=False, reason="no")
    for bad in ({"result": b"3"}, {"error": b"x"}, {"reason": "none"}, {}):
        with pytest.raises(InvalidRequest) as caught:
            answers_of(wire.RespondRequest(responses=[*good, wire.InputResponse(id="4", **bad)]))
        assert caught.value.violations[0].field.startswith("responses[3]")

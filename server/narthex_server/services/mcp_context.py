"""What MCP clients bring and are asked for, between wire and domain."""

from narthex.v1 import tool_pb2 as wire

from narthex_server.errors import InvalidRequest, Violation, invalid
from narthex_server.tools.inputs import Answer
from narthex_server.tools.mcp_context import PLAIN, McpContext
from narthex_server.tools.objects import parse_object
from narthex_server.tools.tool import ApprovalRequest, InputRequest, InputRequired

LOG_PREFIX = "LOG_LEVEL_"


def mcp_context(message: wire.McpContext) -> McpContext:
    """Raises InvalidRequest that names the field."""
    if not message.ByteSize():
        return PLAIN
    state = message.request_state
    try:
        request_state = state.decode() if state else None
    except UnicodeDecodeError:
        violation = Violation("mcp.request_state", "is not what the call before gave")
        raise InvalidRequest(
            f"{violation.field} {violation.description}", reason="INVALID_REQUEST_STATE", violations=(violation,)
        ) from None
    return McpContext(
        capabilities=parse_object(message.client_capabilities, "client capabilities", "mcp.client_capabilities"),
        log_level=level_of(message.log_level) if message.log_level else None,
        meta=parse_object(message.meta, "metadata", "mcp.meta"),
        input_responses=parse_object(message.input_responses, "input responses", "mcp.input_responses"),
        request_state=request_state,
    )


def level_of(level: wire.LogLevel.ValueType) -> str:
    """One of LEVELS; an unset level is `info`. Raises InvalidRequest for a number that has no name."""
    if level == wire.LOG_LEVEL_UNSPECIFIED:
        return "info"
    if level not in wire.LogLevel.values():
        raise InvalidRequest(f"log level {level} is not known", violations=(Violation("level", "is not known"),))
    return wire.LogLevel.Name(level).removeprefix(LOG_PREFIX).lower()


def input_required_to_wire(event: InputRequired) -> wire.InputRequired:
    state = event.request_state
    return wire.InputRequired(
        call_id=event.call_id,
        requests=map(_request_to_wire, event.requests),
        request_state=None if state is None else state.encode("utf-8", "surrogatepass"),
    )


def _request_to_wire(request: InputRequest | ApprovalRequest) -> wire.InputRequest:
    match request:
        case InputRequest(name, method, params):
            return wire.InputRequest(id=name, mcp=wire.McpRequest(method=method, params=params))
        case ApprovalRequest(name, tool, arguments, reason):
            approval = wire.ApprovalRequest(name=tool, arguments=arguments, reason=reason)
            return wire.InputRequest(id=name, approval=approval)


def answers_of(request: wire.RespondRequest) -> list[Answer]:
    """Raises InvalidRequest for an answer that is none."""
    return [_answer(response, f"responses[{index}]") for index, response in enumerate(request.responses)]


def _answer(response: wire.InputResponse, field: str) -> Answer:
    match response.WhichOneof("response"):
        case "result":
            return Answer(
                response.id, result=parse_object(response.result, "the fields of a result", f"{field}.result")
            )
        case "error":
            return Answer(response.id, error=parse_object(response.error, "the fields of an error", f"{field}.error"))
        case "approved":
            return Answer(response.id, approved=response.approved, reason=response.reason)
        case _:
            raise invalid(Violation(f"{field}.response", "must be a result, an error or an approval"))

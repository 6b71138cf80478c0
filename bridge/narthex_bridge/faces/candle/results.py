"""Results of the mailbox, each as the endpoint of its kind of work answers."""

from collections.abc import Sequence

import orjson
from narthex.v1 import generation_pb2, lot_pb2, tool_pb2

from narthex_bridge.faces.openai.chat import completion
from narthex_bridge.faces.openai.completions import CompletionOrder, completions
from narthex_bridge.faces.openai.embeddings import embeddings
from narthex_bridge.faces.openai.tools import Tools
from narthex_bridge.http.refusal import Refusal

_PLAIN = CompletionOrder((), scored_echo=False, stream=False, include_usage=False, headers=())


def result(found: Sequence[lot_pb2.FetchResponse]) -> bytes:
    """The JSON of a whole result. Raises Refusal (501) for sound and pictures."""
    (kind,) = {one.WhichOneof("result") for one in found} or {None}
    match kind:
        case "chat":
            return completion(found[0].chat, _tools(found[0].chat))
        case "generate":
            return completions(found[0].generate.request_id, [found[0].generate], _PLAIN)
        case "embed":
            return embeddings(found[0].embed, packed=False)
        case "call_tool":
            return _called(found[0].call_tool)
        case _:
            raise Refusal(501, "This result can only be fetched over gRPC, by LotService.Fetch.", reason="UNSUPPORTED")


def _tools(reply: generation_pb2.ChatResponse) -> Tools:
    """Calls that have no result are the caller's to run."""
    ran = {turn.tool_call_id for turn in reply.messages if turn.role == generation_pb2.ROLE_TOOL}
    calls = [call for turn in reply.messages for call in turn.tool_calls]
    own = [generation_pb2.ToolSpec(name=call.name) for call in calls if call.id not in ran]
    return Tools(own, execution=generation_pb2.TOOL_EXECUTION_SERVER)


def _called(made: tool_pb2.ToolResult) -> bytes:
    """As MCP has it."""
    told = {"content": orjson.Fragment(made.content or b"[]"), "isError": made.is_error}
    if made.structured_content:
        told["structuredContent"] = orjson.Fragment(made.structured_content)
    return orjson.dumps(told)

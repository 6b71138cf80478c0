"""Questions that a server asks its caller in the middle of a request, the same in every protocol version."""

import json
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.message import ServerMessageMetadata
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

RESULTS = {
    "elicitation/create": types.ElicitResult,
    "sampling/createMessage": types.CreateMessageResult,
    "roots/list": types.ListRootsResult,
}


def form(message: str, required: tuple[str, ...] = (), **properties: dict[str, Any]) -> types.ElicitRequest:
    schema = {"type": "object", "properties": properties, "required": list(required or properties)}
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def sampling(text: str, max_tokens: int = 100) -> types.CreateMessageRequest:
    message = types.SamplingMessage(role="user", content=types.TextContent(text=text))
    return types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens)
    )


def roots() -> types.ListRootsRequest:
    return types.ListRootsRequest()


class InputNeeded(Exception):
    """Ends this round: the request has to come again with answers."""

    def __init__(self, result: types.InputRequiredResult):
        super().__init__("input needed")
        self.result = result


class Dialogue:
    """One request's questions and the answers that have come so far.

    Up to 2025-11-25 a question is a request of the server's own. From 2026-07-28 on it is the result of this round, and
    the answers of earlier rounds come back in the request state, which the server seals.
    """

    def __init__(self, ctx: ServerRequestContext, params: types.InputResponseRequestParams):
        self._ctx = ctx
        self.modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        self.resumed = params.request_state is not None
        earlier = json.loads(params.request_state) if params.request_state else {}
        now = {key: plain(answer) for key, answer in (params.input_responses or {}).items()}
        self._answers: dict[str, Any] = earlier | now

    @property
    def capabilities(self) -> types.ClientCapabilities:
        return self._ctx.session.client_capabilities or types.ClientCapabilities()

    async def ask(self, **questions: types.InputRequest) -> dict[str, Any]:
        """The answers, as they are on the wire, by the questions' names."""
        if self.modern:
            if missing := {key: question for key, question in questions.items() if key not in self._answers}:
                state = json.dumps({key: value for key, value in self._answers.items() if key not in questions})
                raise InputNeeded(types.InputRequiredResult(input_requests=missing, request_state=state))
            return {key: self._answers[key] for key in questions}
        return {key: await self._request(question) for key, question in questions.items()}

    async def _request(self, question: types.InputRequest) -> Any:
        related = ServerMessageMetadata(related_request_id=self._ctx.request_id)
        return plain(await self._ctx.session.send_request(question, RESULTS[question.method], metadata=related))


def plain(answer: types.InputResponse) -> Any:
    return answer.model_dump(by_alias=True, mode="json", exclude_none=True)

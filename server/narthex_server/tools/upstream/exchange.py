"""A request to an upstream that may want input first."""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Any

from mcp.shared.exceptions import MCPError

from narthex_server.errors import FailedPrecondition, InvalidRequest, NarthexError, Unavailable
from narthex_server.principal import Principal
from narthex_server.tools.mcp_context import McpContext
from narthex_server.tools.objects import parse_object
from narthex_server.tools.tool import CallContext, InputRequest, InputRequired
from narthex_server.tools.upstream.client import Client
from narthex_server.tools.upstream.convert import dump
from narthex_server.tools.upstream.grant import granted
from narthex_server.tools.upstream.inputs import (
    ELICITATION,
    SAMPLING,
    lacking,
    lacks,
    offered,
    refusal,
    request_params,
    requests_of,
    urls_of,
)
from narthex_server.tools.upstream.sampler import Sampler
from narthex_server.tools.upstream.secrets import Secrets
from narthex_server.tools.upstream.session import OnProgress
from narthex_server.tools.upstream.source import ServerSource

MAX_ROUNDS = 8
"""How often our model's answers may bring one request further."""

MAX_REQUESTS = 64
"""How many requests one answer may hold."""

_log = logging.getLogger(__name__)


class Exchange:
    """Makes requests of one upstream; sampling requests in their answers go to `sampler` where the source says so."""

    def __init__(self, source: ServerSource, secrets: Secrets, sampler: Sampler | None = None) -> None:
        self._source = source
        self._secrets = secrets
        self._sampler = sampler if source.sampling == "model" else None
        self._in_flight: list[Principal] = []

    @property
    def callers(self) -> frozenset[Principal]:
        """Whose requests are in flight."""
        return frozenset(self._in_flight)

    async def make(
        self,
        client: Client,
        method: str,
        params: Mapping[str, Any],
        context: CallContext,
        on_progress: OnProgress | None = None,
        pausing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> dict[str, Any] | InputRequired:
        """The result as it came, or what the upstream wants before there is one; our model answers within `pausing`.

        Raises:
            MCPError: the upstream's own error.
            FailedPrecondition: the caller cannot answer what has to be answered, or our model cannot.
            InvalidRequest: the upstream refuses the request made again with answers, or their state is none.
            Unavailable: the answer is not a result.
            Unauthenticated: the upstream wants a token of the caller's own, or does not take it.
        """
        self._in_flight.append(context.principal)
        try:
            return await self._rounds(client, method, params, context, on_progress, pausing)
        finally:
            self._in_flight.remove(context.principal)

    async def _rounds(
        self,
        client: Client,
        method: str,
        params: Mapping[str, Any],
        context: CallContext,
        on_progress: OnProgress | None,
        pausing: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, Any] | InputRequired:
        mcp = context.mcp
        if (capabilities := offered(mcp.capabilities, self._source.sampling)) is not mcp.capabilities:
            mcp = replace(mcp, capabilities=capabilities)
        if self._sampler is not None:
            mcp = _opened(mcp)
        for _ in range(MAX_ROUNDS):
            try:
                with granted(self._source.name, self._source.auth, context, self._secrets):
                    raw = await self._send(client, method, params, mcp, on_progress)
            except MCPError as error:
                requests = urls_of(error)
                if not requests or lacking(ELICITATION, {"mode": "url"}, mcp.capabilities):
                    raise
                return self._required(requests, mcp, context, "")
            if raw.get("resultType") != "input_required":
                return raw
            requests, state = requests_of(raw), raw.get("requestState")
            if len(requests) > MAX_REQUESTS:
                raise self._invalid(method)
            if self._sampler is None:
                return self._required(requests, mcp, context, state or "")
            with pausing():
                ours = {one.id: await self._sample(one, context) for one in requests if one.method == SAMPLING}
            rest = tuple(one for one in requests if one.id not in ours)
            if rest or not ours:
                return self._required(rest, mcp, context, _sealed(state, ours))
            mcp = replace(mcp, input_responses=ours, request_state=state)
        raise FailedPrecondition(
            f"upstream {self._source.name!r} asked the model {MAX_ROUNDS} times and gave no result",
            reason="TOO_MANY_ROUNDS",
            metadata={"upstream": self._source.name},
        )

    async def _send(
        self,
        client: Client,
        method: str,
        params: Mapping[str, Any],
        mcp: McpContext,
        on_progress: OnProgress | None,
    ) -> dict[str, Any]:
        try:
            return await client.request(
                method, {**params, **request_params(mcp, client.is_modern)}, mcp.capabilities, on_progress
            )
        except MCPError as error:
            if not urls_of(error) and (refused := refusal(error, mcp, self._source.name)) is not None:
                raise refused from None
            raise
        except ValueError as error:
            _log.warning("upstream %s answered %s with what is not a result: %s", self._source.name, method, error)
            raise self._invalid(method) from None

    def _required(
        self, requests: tuple[InputRequest, ...], mcp: McpContext, context: CallContext, state: str
    ) -> InputRequired:
        for one in requests:
            if needed := lacking(one.method, json.loads(one.params), mcp.capabilities):
                raise lacks(needed, self._source.name)
        call_id = context.request_id if context.inputs is None else context.inputs.call_id
        return InputRequired(call_id, requests, state)

    def _invalid(self, method: str) -> Unavailable:
        return Unavailable(
            f"upstream {self._source.name!r} answered with what is not a result of {method}",
            reason="UPSTREAM_INVALID_RESULT",
            metadata={"upstream": self._source.name},
        )

    async def _sample(self, request: InputRequest, context: CallContext) -> dict[str, Any]:
        assert self._sampler is not None
        try:
            return await self._sampler.sample(json.loads(request.params), context)
        except NarthexError as error:
            raise FailedPrecondition(
                f"upstream {self._source.name!r} asks the model for what it cannot give: {error.message}",
                reason="SAMPLING_FAILED",
                metadata={"upstream": self._source.name},
            ) from None


def _sealed(state: str | None, answers: Mapping[str, Any]) -> str:
    """A state for the caller that brings our model's answers back with the upstream's own."""
    return dump({"state": state, "answers": answers}).decode()


def _opened(mcp: McpContext) -> McpContext:
    """With the upstream's own state, and our model's answers beside the caller's."""
    if mcp.request_state is None:
        return mcp
    with suppress(InvalidRequest):
        match parse_object(mcp.request_state.encode(), "fields of a state"):
            case {"state": str() | None as state, "answers": dict(answers)}:
                return replace(mcp, request_state=state, input_responses={**mcp.input_responses, **answers})
    raise InvalidRequest("request_state is not what the call before gave", reason="INVALID_REQUEST_STATE")

"""A request to an upstream that may want input first."""

from collections.abc import Mapping
from typing import Any

import mcp_types as types
from mcp.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter, ValidationError

from narthex_server.errors import Unavailable
from narthex_server.tools.tool import CallContext, InputRequired
from narthex_server.tools.upstream.declaring import DECLARED
from narthex_server.tools.upstream.inputs import refusal, request_params, requests_of
from narthex_server.tools.upstream.source import ServerSource

_AS_IT_CAME: TypeAdapter[Any] = TypeAdapter(dict[str, Any])


class _Request(types.Request[dict[str, Any], str]):
    """Any request, its params as they are."""


class Exchange:
    """Makes requests of one upstream."""

    def __init__(self, source: ServerSource) -> None:
        self._source = source

    async def make(
        self, client: Client, method: str, params: Mapping[str, Any], context: CallContext
    ) -> dict[str, Any] | InputRequired:
        """The result as it came, or what the upstream wants before there is one.

        Raises:
            MCPError: the upstream's own error.
            FailedPrecondition: the caller cannot answer what has to be answered.
            InvalidRequest: the upstream refuses the request made again with answers.
            Unavailable: the answer is not a result.
        """
        modern = client.protocol_version in MODERN_PROTOCOL_VERSIONS
        request = _Request(method=method, params={**params, **request_params(context.mcp, modern)})
        declared = DECLARED.set(context.mcp.capabilities)
        try:
            raw: dict[str, Any] = await client.session.send_request(request, _AS_IT_CAME)
        except MCPError as error:
            if (refused := refusal(error, context.mcp, self._source.name)) is not None:
                raise refused from None
            raise
        except ValidationError:
            raise Unavailable(
                f"upstream {self._source.name!r} answered with what is not a result of {method}",
                reason="UPSTREAM_INVALID_RESULT",
                metadata={"upstream": self._source.name},
            ) from None
        finally:
            DECLARED.reset(declared)
        if raw.get("resultType") != "input_required":
            return raw
        return InputRequired(context.request_id, requests_of(raw), raw.get("requestState") or "")

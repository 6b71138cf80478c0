"""The question whether a server still answers."""

from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError
from pydantic import TypeAdapter

from narthex_server.tools.upstream.client import Client
from narthex_server.tools.upstream.health import Unhealthy
from narthex_server.tools.upstream.inputs import is_lost

_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any)


async def ask(client: Client) -> None:
    """Returns when it does: since 2026-07-28, which has no `ping`, to `server/discover`, which every server must know.

    Raises:
        Unhealthy: the connection is lost, or what answers in its place is a proxy or a server that is broken.
    """
    request = types.Request[dict[str, Any], str](method="server/discover" if client.is_modern else "ping", params={})
    try:
        await client.session.send_request(request, _ANYTHING)
    except MCPError as error:
        if is_lost(error) or error.code == types.INTERNAL_ERROR:
            raise Unhealthy from None
        # any other error is an answer

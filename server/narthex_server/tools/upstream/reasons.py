"""Why there is no connection, in words for whoever runs the gateway."""

from mcp.shared.exceptions import MCPError

from narthex_server.errors import DeadlineExceeded, Unavailable
from narthex_server.tools.upstream.source import Http, ServerSource, WebSocket


def reason_of(error: BaseException, source: ServerSource) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case TimeoutError() | DeadlineExceeded():
            return f"did not answer within {source.start_timeout:g} s"
        case MCPError():
            return f"refused the session: {error.message}"
        case OSError() | Unavailable():
            return str(error)
        case _:
            # the library's own texts name the URL, which may hold a key
            at = source.transport
            text = str(error).replace(at.url, "its URL") if isinstance(at, Http | WebSocket) else str(error)
            return f"{type(error).__name__}: {text[:300]}"

"""/: what a person who opens the bridge in a browser reads."""

from collections.abc import Iterable

from narthex_bridge.http.messages import HttpResponse

_USES = {
    "/ui": "what the models and tools do now, and a chat: for browsers",
    "/mcp": "MCP clients, of every version of the protocol: give them this URL",
    "/sse": "MCP clients that know only HTTP with SSE",
    "/mcp/list": "the tools, as JSON",
    "/mcp/stream": "one MCP request by POST, without a session, for scripts",
    "/v1/chat/completions": "OpenAI-style clients: their base URL ends with /v1",
    "/v1/messages": "Anthropic-style clients: their base URL ends before /v1",
    "/readyz": "whether the models' server can be reached",
    "/metrics": "counters, for Prometheus",
}


def welcome(served: Iterable[str]) -> HttpResponse:
    """A plain text that says what the paths among `served` are for."""
    paths = set(served)
    width = max(map(len, _USES))
    lines = [f"{path:{width}}  {use}" for path, use in _USES.items() if path in paths]
    text = "\n".join(
        ("narthex serves models and MCP tools here.", "", *lines, "", "How to connect: docs/clients.md", "")
    )
    return HttpResponse(200, text.encode(), "text/plain; charset=utf-8")

"""Tools of type `mcp` in a response's request: MCP servers that the service itself is connected to."""

from collections.abc import Mapping

from narthex_bridge.caller import Caller
from narthex_bridge.faces.body import Fields
from narthex_bridge.server.backend import Backend

_ELSEWHERE = ("server_url", "connector_id", "authorization", "headers", "tunnel_id")


class Upstreams:
    """Finds the catalog's tools that such an entry means; its label is the name of a configured upstream."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def tools(self, entry: Fields, caller: Caller, request_id: str) -> Mapping[str, str]:
        """The label by the tool's name in the catalog. Raises Refusal where the entry means anything else."""
        label = entry.needed_text("server_label")
        for name in _ELSEWHERE:
            if name in entry:
                raise entry.fault(name, "is not supported here: server_label names an MCP server of this service")
        if entry.any("require_approval") != "never":
            raise entry.fault("require_approval", "must be never: the server runs these tools without asking")
        known = await self._backend.upstream_tools(caller, request_id, label)
        if not known:
            raise entry.fault("server_label", "names no MCP server of this service that has tools for this caller")
        allowed = _allowed(entry)
        if allowed is None:
            return dict.fromkeys(known, label)
        chosen = {}
        for tool in allowed:
            name = tool if tool in known else f"{label}__{tool}"
            if name not in known:
                raise entry.fault("allowed_tools", f"names {tool!r:.64}, which that server does not have")
            chosen[name] = label
        return chosen


def _allowed(entry: Fields) -> list[str] | None:
    given = entry.any("allowed_tools")
    if given is None:
        return None
    if isinstance(given, list):
        return list(entry.texts("allowed_tools"))
    wanted = entry.object("allowed_tools")
    assert wanted is not None
    if "read_only" in wanted:
        raise wanted.fault("read_only", "is not supported here")
    return list(wanted.texts("tool_names"))

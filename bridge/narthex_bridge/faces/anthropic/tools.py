"""The tools of a request: the caller's own, and those of the catalog that the server runs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.anthropic import names
from narthex_bridge.faces.body import Fields
from narthex_bridge.http.refusal import Refusal

_OWN, _TOOLSET = "custom", "mcp_toolset"


@dataclass(frozen=True, slots=True)
class Upstreams:
    """The forwarded tools that the caller may use: their names in the catalog, by upstream; none of one that is not."""

    tools: Mapping[str, Sequence[str]]

    def named(self, owner: Fields, name: str) -> dict[str, str]:
        """Catalog names by the upstream's own. Raises Refusal where there is no such upstream."""
        server = owner.needed_text(name)
        if not (there := self.tools.get(server)):
            text = (
                f"names {json.dumps(server)}, which is no MCP server that narthex is configured with, or has no tools"
            )
            raise owner.fault(name, text)
        return {names.parts(tool)[1]: tool for tool in there}


def upstreams(request: Fields) -> set[str]:
    """The MCP servers that members `mcp_servers` and `tools` name. Raises Refusal."""
    toolsets = (tool for tool in request.objects("tools") if tool.text("type") == _TOOLSET)
    named = {toolset.needed_text("mcp_server_name") for toolset in toolsets}
    return named | {server.needed_text("name") for server in request.objects("mcp_servers")}


def own(request: Fields) -> list[wire.ToolSpec]:
    """The caller's own members of `tools`. Raises Refusal for a tool that only Anthropic's service has."""
    found = []
    for tool in request.objects("tools"):
        kind = tool.text("type") or _OWN
        if kind == _OWN:
            found.append(
                wire.ToolSpec(
                    name=tool.needed_text("name"),
                    description=tool.text("description") or "",
                    parameters=_schema(tool),
                    strict=tool.flag("strict"),
                )
            )
        elif kind != _TOOLSET:
            text = "is a tool of Anthropic's service; use one of the catalog (catalog_tools), or define your own"
            raise tool.fault("type", f"{json.dumps(kind)} {text}")
    return found


def choice(request: Fields) -> tuple[wire.ToolChoice | None, bool]:
    """Member `tool_choice`, and whether one call at most is wanted. Raises Refusal."""
    fields = request.object("tool_choice")
    if fields is None:
        return None, False
    single = bool(fields.flag("disable_parallel_tool_use"))
    match fields.one_of("type", "auto", "any", "tool", "none"):
        case "auto":
            return wire.ToolChoice(mode=wire.TOOL_CHOICE_MODE_AUTO), single
        case "any":
            return wire.ToolChoice(mode=wire.TOOL_CHOICE_MODE_REQUIRED), single
        case "none":
            return wire.ToolChoice(mode=wire.TOOL_CHOICE_MODE_NONE), single
        case "tool":
            return wire.ToolChoice(name=fields.needed_text("name")), single
        case _:
            raise fields.fault("type", "is missing")


def catalog(request: Fields, upstreams: Upstreams) -> list[str]:
    """The catalog's tools that the request names, by `catalog_tools`, `mcp_servers` or toolsets. Raises Refusal."""
    wanted = list(request.texts("catalog_tools"))
    toolsets = [tool for tool in request.objects("tools") if tool.text("type") == _TOOLSET]
    described = {toolset.needed_text("mcp_server_name") for toolset in toolsets}
    for server in request.objects("mcp_servers"):
        if "authorization_token" in server:
            raise server.fault(
                "authorization_token", "is not passed on: narthex has its own credentials for its servers"
            )
        there = upstreams.named(server, "name")
        if server.needed_text("name") not in described:
            wanted += _configured(server, there)
    for toolset in toolsets:
        wanted += _enabled(toolset, upstreams.named(toolset, "mcp_server_name"))
    return list(dict.fromkeys(wanted))


def _configured(server: Fields, there: Mapping[str, str]) -> Iterable[str]:
    """By `tool_configuration`, which servers had before there were toolsets."""
    settings = server.object("tool_configuration") or Fields({})
    if settings.flag("enabled") is False:
        return ()
    if "allowed_tools" not in settings:
        return there.values()
    return [
        _known(settings, f"allowed_tools[{index}]", name, there)
        for index, name in enumerate(settings.texts("allowed_tools"))
    ]


def _enabled(toolset: Fields, there: Mapping[str, str]) -> Iterable[str]:
    default = (toolset.object("default_config") or Fields({})).flag("enabled")
    configs = toolset.object("configs") or Fields({})
    for name in toolset.any("configs") or ():
        _known(configs, name, name, there)
    for name, tool in there.items():
        settings = configs.object(name)
        enabled = settings.flag("enabled") if settings is not None else None
        if (enabled if enabled is not None else default) is not False:
            yield tool


def _known(owner: Fields, field: str, name: str, there: Mapping[str, str]) -> str:
    if name not in there:
        raise owner.fault(field, f"names {json.dumps(name)}, which this server has not: it has {', '.join(there)}")
    return there[name]


def _schema(tool: Fields) -> bytes:
    if schema := tool.json("input_schema"):
        return schema
    raise tool.fault("input_schema", "is missing")


def nothing_enabled(request: Fields) -> Refusal:
    """The refusal of a request whose MCP servers leave no tool: none named would mean all."""
    return request.fault("mcp_servers", "and its toolsets enable no tool")

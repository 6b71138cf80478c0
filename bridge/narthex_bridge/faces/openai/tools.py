"""The tools that a model may call, and who runs them."""

from collections.abc import Sequence
from dataclasses import dataclass

from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.body import Fields

_MODES = {
    "auto": wire.TOOL_CHOICE_MODE_AUTO, "none": wire.TOOL_CHOICE_MODE_NONE, "any": wire.TOOL_CHOICE_MODE_REQUIRED,
    "required": wire.TOOL_CHOICE_MODE_REQUIRED,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tools:
    """The caller's own tools and those of the server's catalog.

    `single` means that only the first call of an answer counts, or where the server runs tools, of each of its rounds.
    """

    own: Sequence[wire.ToolSpec] = ()
    choice: wire.ToolChoice | None = None
    execution: wire.ToolExecution.ValueType = wire.TOOL_EXECUTION_CLIENT
    catalog: Sequence[str] = ()
    rounds: int | None = None
    single: bool = False
    calls: int | None = None

    def fill(self, spec: wire.ChatSpec) -> None:
        """Puts them into a chat."""
        spec.tools.extend(self.own)
        if self.choice is not None:
            spec.tool_choice.CopyFrom(self.choice)
        spec.tool_execution = self.execution
        spec.catalog_tools.extend(self.catalog)
        if self.rounds is not None:
            spec.max_tool_rounds = self.rounds
        if self.calls is not None:
            spec.agent.max_tool_calls = self.calls
        if self.single and self.execution == wire.TOOL_EXECUTION_SERVER:
            spec.parallel_tool_calls = False

    @property
    def one_call(self) -> bool:
        """Whether the answer is over after its first call."""
        return self.single and self.execution == wire.TOOL_EXECUTION_CLIENT

    def theirs(self, name: str) -> bool:
        """Whether it is the caller who runs calls of this name."""
        if self.execution == wire.TOOL_EXECUTION_CLIENT:
            return True
        return any(tool.name == name for tool in self.own)


def chat_tools(fields: Fields) -> Tools:
    """Of a chat completion; the server's tools by `tool_execution` and `catalog_tools`."""
    own, choice = choose(fields, [_tool(tool) for tool in fields.objects("tools")])
    return with_catalog(fields, own, choice, ())


def with_catalog(
    fields: Fields, own: Sequence[wire.ToolSpec], choice: wire.ToolChoice | None, more: Sequence[str]
) -> Tools:
    """With the tools that the server runs, `more` of them found elsewhere in the request."""
    execution = fields.one_of("tool_execution", "client", "server")
    catalog, rounds = fields.texts("catalog_tools"), fields.whole("max_tool_rounds")
    calls = fields.whole("max_tool_calls")
    served = execution == "server" or (execution is None and bool(more))
    for name in ("catalog_tools", "max_tool_rounds", "max_tool_calls"):
        if not served and name in fields:
            raise fields.fault(name, 'needs "tool_execution": "server"')
    if more and not served:
        raise fields.fault("tool_execution", "cannot be client where the server's tools are asked for")
    single = fields.flag("parallel_tool_calls") is False
    runner = wire.TOOL_EXECUTION_SERVER if served else wire.TOOL_EXECUTION_CLIENT
    return Tools(own, choice, runner, (*catalog, *more), rounds, single, calls)


def choose(fields: Fields, own: Sequence[wire.ToolSpec]) -> tuple[Sequence[wire.ToolSpec], wire.ToolChoice | None]:
    """The tools that remain, and the choice among them, of `tool_choice` in either endpoint's spelling."""
    given = fields.any("tool_choice")
    if given is None:
        return own, None
    if isinstance(given, str):
        return own, wire.ToolChoice(mode=_MODES[fields.one_of("tool_choice", *_MODES) or "auto"])
    choice = fields.object("tool_choice")
    assert choice is not None
    match choice.any("type"):
        case "function" | "mcp":
            named = choice.object("function") or choice
            return own, wire.ToolChoice(name=named.needed_text("name"))
        case "allowed_tools":
            allowed = choice.object("allowed_tools") or choice
            mode = _MODES[allowed.one_of("mode", "auto", "required") or "auto"]
            names = {(tool.object("function") or tool).needed_text("name") for tool in allowed.objects("tools")}
            if unknown := names - {tool.name for tool in own}:
                raise choice.fault("", f"allows {min(unknown)!r:.64}, which is not among tools")
            return [tool for tool in own if tool.name in names], wire.ToolChoice(mode=mode)
        case _:
            raise choice.fault("type", "must be function or allowed_tools")


def spec(function: Fields) -> wire.ToolSpec:
    """Of an object with `name`, `description`, `parameters` and `strict`."""
    return wire.ToolSpec(
        name=function.needed_text("name"),
        description=function.text("description") or "",
        parameters=function.json("parameters"),
        strict=function.flag("strict"),
    )


def _tool(tool: Fields) -> wire.ToolSpec:
    if tool.any("type") not in (None, "function"):
        raise tool.fault("type", "must be function")
    function = tool.object("function")
    if function is None:
        raise tool.fault("function", "is missing")
    return spec(function)

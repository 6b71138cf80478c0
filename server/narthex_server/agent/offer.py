"""The tools that the model of one run is offered."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Protocol

from narthex_server.errors import NarthexError, NotFound
from narthex_server.principal import Principal
from narthex_server.text.messages import ToolCall, ToolSpec
from narthex_server.tools.arguments import parse_arguments
from narthex_server.tools.search.searching import CALL
from narthex_server.tools.tool import CallContext, NativeTool, Tool, ToolEvent


class ToolBox(Protocol):
    """The part of the catalog that the agent uses."""

    def list(self, principal: Principal) -> tuple[Tool, ...]: ...

    def offered(self, principal: Principal) -> tuple[Tool, ...]: ...

    def get(self, name: str, principal: Principal) -> Tool: ...

    def call(self, name: str, arguments: bytes, context: CallContext) -> AsyncIterator[ToolEvent]: ...

    def refused(self, name: str, arguments: bytes, context: CallContext, error: NarthexError) -> None: ...


class Offer:
    """Some of the catalog's tools, and tools of the run itself; `own` are the caller's, which hide others."""

    def __init__(self, box: ToolBox, principal: Principal, names: tuple[str, ...], own: frozenset[str]) -> None:
        """Offers the named tools, or what the catalog offers models; raises NotFound for a name that it lacks."""
        self._box = box
        self._principal = principal
        self._own = own
        self._natives: dict[str, NativeTool] = {}
        tools = {tool.name: tool for tool in box.list(principal)}
        if missing := [name for name in names if name not in tools]:
            raise NotFound(
                f"the catalog has no tool {missing[0]!r}; ListTools shows what there is", metadata={"tool": missing[0]}
            )
        chosen = [tools[name] for name in names] or box.offered(principal)
        self._tools = {tool.name: tool for tool in chosen if tool.name not in own}

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """For the model."""
        return tuple(
            ToolSpec(tool.name, tool.description, tool.input_schema.decode("utf-8", "replace"))
            for tool in self._tools.values()
        )

    def free(self, name: str) -> str:
        """The name, or one like it that is not taken."""
        number, found = 1, name
        while found in self._tools or found in self._own:
            number += 1
            found = f"{name}_{number}"
        return found

    def add(self, native: NativeTool) -> ToolSpec:
        """Offers a tool of the run's own from now on."""
        self._natives[native.tool.name] = native
        self._tools[native.tool.name] = native.tool
        return self.specs[-1]

    def clear(self) -> None:
        """Offers nothing."""
        self._tools = {}

    def find(self, name: str) -> Tool:
        """Raises NotFound in words for the model."""
        if (tool := self._tools.get(name)) is None:
            known = ", ".join(sorted(self._tools)) or "none"
            raise NotFound(f"there is no tool {name!r}; there are: {known}", reason="TOOL_NOT_FOUND")
        return tool

    def meant(self, call: ToolCall) -> tuple[Tool, ToolCall]:
        """The tool that will run, also where another is called to call it; raises as `find`, and what `get` raises."""
        tool = self.find(call.name)
        if tool.name != CALL or tool.server:
            return tool, call
        asked = parse_arguments(call.arguments.encode("utf-8", "replace"))
        name, arguments = asked.get("name"), asked.get("arguments", {})
        if not isinstance(name, str):
            return tool, call  # refused when it is made
        inner = self._box.get(name, self._principal)
        return inner, replace(call, name=inner.name, arguments=json.dumps(arguments))

    def call(self, name: str, arguments: bytes, context: CallContext) -> AsyncIterator[ToolEvent]:
        if (native := self._natives.get(name)) is not None:
            return native.call(arguments, context)
        return self._box.call(name, arguments, context)

    def refused(self, call: ToolCall, context: CallContext, error: NarthexError) -> None:
        """Reports a call that is not made."""
        self._box.refused(call.name, call.arguments.encode("utf-8", "replace"), context, error)

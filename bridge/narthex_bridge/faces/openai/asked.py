"""What a response repeats of its request and remembers of it, and how that waits with its ticket."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson
from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.openai.tools import Tools

_FORM = "narthex.response/1"


@dataclass(frozen=True, slots=True)
class Asked:
    """`labels` are the MCP servers of the catalog's tools, by the tools' names."""

    model: str
    repeated: Mapping[str, Any]
    tools: Tools
    labels: Mapping[str, str]

    def note(self) -> bytes:
        """All of it that an answer needs."""
        tools = {
            "own": [tool.name for tool in self.tools.own],
            "served": self.tools.execution == wire.TOOL_EXECUTION_SERVER,
            "single": self.tools.single,
        }
        kept = {"form": _FORM, "model": self.model, "repeated": self.repeated, "tools": tools, "labels": self.labels}
        return orjson.dumps(kept)

    @classmethod
    def of(cls, note: bytes) -> Self | None:
        """None for what is no note of a response."""
        try:
            kept = orjson.loads(note)
            if kept["form"] != _FORM:
                return None
            tools = kept["tools"]
            runner = wire.TOOL_EXECUTION_SERVER if tools["served"] else wire.TOOL_EXECUTION_CLIENT
            own = [wire.ToolSpec(name=name) for name in tools["own"]]
            made = Tools(own, execution=runner, single=tools["single"])
            return cls(kept["model"], kept["repeated"], made, kept["labels"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None

"""A tool as a grammar of calls sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from narthex_server.text import lark


@dataclass(frozen=True, slots=True)
class ToolRule:
    """A tool's name and the JSON Schema of its arguments; `exact` refuses what cannot be enforced of it."""

    name: str
    schema: Mapping[str, Any]
    exact: bool = False

    def arguments(self) -> str:
        """Lark for the arguments as a JSON object."""
        return lark.json_value({**self.schema, "type": "object"}, lenient=not self.exact)

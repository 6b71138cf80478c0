"""What an MCP request brings beside its arguments."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class McpContext:
    """The default is a plain caller, who is asked for nothing.

    `capabilities` are MCP's ClientCapabilities, `log_level` one of log_levels.LEVELS (None: the caller's standing one),
    `meta` goes to the upstream as `_meta`; `input_responses` and `request_state` answer what ended the call before.
    """

    capabilities: Mapping[str, Any] = field(default_factory=dict)
    log_level: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    input_responses: Mapping[str, Any] = field(default_factory=dict)
    request_state: str | None = None

    @property
    def is_again(self) -> bool:
        """Whether the request was made before, and ended with a wish for input."""
        return bool(self.input_responses) or self.request_state is not None

    def at_level(self, level: str) -> "McpContext":
        """The same with this log level."""
        return McpContext(self.capabilities, level, self.meta, self.input_responses, self.request_state)


PLAIN = McpContext()

"""How what a server offers is shown to callers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

Scan = Literal["strip", "refuse", "off"]
"""Hidden characters in descriptors: removed, a reason to leave the whole out, or let through."""


@dataclass(frozen=True, slots=True)
class Presentation:
    """`prefix` stands before `_<tool>` in exposed names instead of `<server>__`; "" leaves the tools' own names.

    `rename` and `describe` have the server's own names of tools as keys; `include` and `exclude` are shell-style
    patterns of them. Without `scan` the catalog's own setting holds.
    """

    prefix: str | None = None
    rename: Mapping[str, str] = field(default_factory=dict)
    describe: Mapping[str, str] = field(default_factory=dict)
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    scan: Scan | None = None

    def offers(self, tool: str) -> bool:
        """Whether the tool of this own name is offered."""
        return any(fnmatchcase(tool, glob) for glob in self.include) and not any(
            fnmatchcase(tool, glob) for glob in self.exclude
        )

    def without_tools(self) -> "Presentation":
        """What of it holds for prompts and resources."""
        return Presentation(self.prefix, scan=self.scan)


PLAIN = Presentation()

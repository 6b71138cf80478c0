"""Which tools a caller may use."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

MOST_GLOBS = 64
MOST_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class ToolScope:
    """Shell-style patterns of exposed tool names (`*`, `?`, `[abc]`); a tool is in the scope if one of them fits.

    Without patterns no tool is in it. Raises ValueError for patterns that do not fit into the metadata of a call.
    """

    globs: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        if len(self.globs) > MOST_GLOBS or sum(map(len, self.globs)) > MOST_CHARACTERS:
            raise ValueError(
                f"holds more than {MOST_GLOBS} patterns, or more than {MOST_CHARACTERS} characters of them"
            )

        if not all(glob.isascii() and glob.isprintable() for glob in self.globs):
            raise ValueError("holds a pattern with other characters than printable ones of ASCII")

    def allows(self, tool: str) -> bool:
        """Whether the tool of this exposed name is in the scope."""
        return "*" in self.globs or any(fnmatchcase(tool, glob) for glob in self.globs)

    def within(self, other: "ToolScope") -> bool:
        """Whether the other one allows all that this one does, as far as the patterns themselves say so."""
        return "*" in other.globs or set(self.globs) <= set(other.globs)


ALL_TOOLS = ToolScope()

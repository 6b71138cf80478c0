"""When a catalog is searched rather than read."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

SEARCH = "tools__search"
CALL = "tools__call"

Offering = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class Searching:
    """Whether the tools that search and call are offered: with `auto` where upstreams have more than `above` tools.

    `lazy` are patterns of callers' names; for those only our own tools are listed, and the others are searched for.
    """

    offering: Offering = "off"
    above: int = 50
    lazy: tuple[str, ...] = ()

    def offered(self, forwarded: int) -> bool:
        """Whether a catalog with so many forwarded tools has them."""
        return self.offering == "on" or (self.offering == "auto" and (bool(self.lazy) or forwarded > self.above))

    def lazy_for(self, name: str) -> bool:
        """Whether the caller of this name searches instead of reading the list."""
        return any(fnmatchcase(name, glob) for glob in self.lazy)

"""Which tenants may see something."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

_SPECIAL = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Audience:
    """Shell-style patterns of tenants (`*`, `?`, `[abc]`); a tenant is in it if one fits, nobody without any."""

    globs: tuple[str, ...] = ("*",)

    def admits(self, tenant: str) -> bool:
        return "*" in self.globs or any(fnmatchcase(tenant, glob) for glob in self.globs)

    @property
    def is_single(self) -> bool:
        """Whether it can be one tenant at most."""
        return len(self.globs) < 2 and all(_SPECIAL.isdisjoint(glob) for glob in self.globs)


EVERYBODY = Audience()

"""Which results of a server may be kept, and how long."""

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from narthex_server.tools.tool import Tool


@dataclass(frozen=True, slots=True)
class CacheRule:
    """Those of `tools`, patterns of the upstream's own names, are kept; each for `ttl` s, or what the settings say."""

    tools: tuple[str, ...] = ()
    ttl: float | None = None

    def names(self, tool: Tool) -> bool:
        return any(fnmatchcase(tool.own_name, glob) for glob in self.tools)


class Keeping:
    """What the rules of servers and the settings of this one come to."""

    def __init__(self, read_only: bool, ttl: float) -> None:
        """With `read_only` also tools are kept that say of themselves that a second call is like the first."""
        self._read_only = read_only
        self._ttl = ttl
        self._claims = lru_cache(1000)(_claims)  # by annotations: many tools have the same

    def ttl(self, tool: Tool, rule: CacheRule) -> float:
        """How many seconds a result of the tool is kept; 0 for not at all."""
        named = rule.names(tool)
        if not named and not (self._read_only and self._claims(tool.annotations).repeats):
            return 0.0
        return self._ttl if rule.ttl is None else rule.ttl

    def changes(self, tool: Tool, rule: CacheRule) -> bool:
        """Whether a call may make what is kept of its server wrong: anything is kept, and it does not say it reads."""
        return bool(self._read_only or rule.tools) and not self._claims(tool.annotations).reads


@dataclass(frozen=True, slots=True)
class _Claims:
    """What a tool says of itself: it changes nothing, and there is no reason to make the same call twice."""

    reads: bool = False
    repeats: bool = False


def _claims(annotations: bytes) -> _Claims:
    try:
        said = json.loads(annotations or b"{}")
    except (ValueError, RecursionError):
        return _Claims()
    if not isinstance(said, dict):
        return _Claims()
    reads = said.get("readOnlyHint") is True
    # Most tools that read the clock or the web say no more than that they read.
    return _Claims(reads, reads and (said.get("idempotentHint") is True or said.get("openWorldHint") is False))

"""Results that were too large for a model, kept whole for their caller for a while."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from narthex_server.errors import NotFound
from narthex_server.principal import Principal

PREFIX = "narthex://results/"


@dataclass(frozen=True, slots=True)
class KeptLimits:
    """How long results are kept, in seconds, and how many bytes of them: of one caller, and of all."""

    seconds: float = 3600.0
    caller_bytes: int = 64 << 20
    total_bytes: int = 256 << 20


@dataclass(frozen=True, slots=True)
class _Kept:
    owner: tuple[str, str]
    text: str
    size: int
    until: float


class KeptResults:
    """The kept results of all callers; the oldest give way where there are too many bytes."""

    def __init__(self, limits: KeptLimits = KeptLimits(), clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def keep(self, principal: Principal, text: str) -> str:
        """The URI under which the caller, and nobody else, can read the text; empty if it is too large to be kept."""
        size = len(text.encode("utf-8", "replace"))
        if size > min(self._limits.caller_bytes, self._limits.total_bytes):
            return ""
        self._expire()
        owner = _owner(principal)
        self._make_room(
            [uri for uri, kept in self._kept.items() if kept.owner == owner], self._limits.caller_bytes - size
        )
        self._make_room(list(self._kept), self._limits.total_bytes - size)
        uri = PREFIX + secrets.token_urlsafe(18)
        self._kept[uri] = _Kept(owner, text, size, self._clock() + self._limits.seconds)
        return uri

    def has(self, principal: Principal, uri: str) -> bool:
        """Whether the caller can read it now."""
        self._expire()
        return (kept := self._kept.get(uri)) is not None and kept.owner == _owner(principal)

    def read(self, principal: Principal, uri: str) -> str:
        """The whole text; raises NotFound for what is gone, never was, or is another caller's."""
        if not self.has(principal, uri):
            raise NotFound(
                f"there is no result {uri[:200]!r}; results are kept for {self._limits.seconds:g} seconds",
                reason="RESOURCE_NOT_FOUND",
                metadata={"uri": uri[:1000]},
            )
        return self._kept[uri].text

    def _make_room(self, uris: list[str], room: int) -> None:
        """Forgets the first of these until they have `room` bytes at most."""
        total = sum(self._kept[uri].size for uri in uris)
        for uri in uris:
            if total <= room:
                return
            total -= self._kept.pop(uri).size

    def _expire(self) -> None:
        now = self._clock()
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._kept.popitem(last=False)


def _owner(principal: Principal) -> tuple[str, str]:
    return principal.tenant, principal.name

"""Severities of log messages, and who wants which."""

from collections import OrderedDict

from narthex_server.principal import Principal

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency", "off")
"""RFC 5424's, least severe first; `off` lets nothing through."""

DEFAULT = "info"
MAX_CALLERS = 10_000
"""Callers whose levels are kept; the one that was longest without a call is forgotten first."""


def passes(level: str, least: str) -> bool:
    """Whether a message of `level` goes to who wants `least` and what is more severe."""
    return LEVELS.index(level) >= LEVELS.index(least)


class LogLevels:
    """The least severe level that each caller wants, by upstream."""

    def __init__(self) -> None:
        self._callers: OrderedDict[Principal, dict[str, str]] = OrderedDict()

    def set(self, principal: Principal, level: str, server: str = "") -> None:
        """`server` empty sets the level for all upstreams, whatever was set for one before."""
        if server:
            self._callers.setdefault(principal, {})[server] = level
        else:
            self._callers[principal] = {"": level}
        self._callers.move_to_end(principal)
        if len(self._callers) > MAX_CALLERS:
            self._callers.popitem(last=False)

    def get(self, principal: Principal, server: str) -> str:
        if (levels := self._callers.get(principal)) is None:
            return DEFAULT
        self._callers.move_to_end(principal)
        return levels.get(server) or levels.get("", DEFAULT)

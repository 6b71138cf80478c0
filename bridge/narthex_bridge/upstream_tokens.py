"""The tokens for upstreams that come with a request, and go no further than its own calls."""

import re
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType

HEADER = "x-narthex-upstream-token-"
"""How the headers begin that bring one, and the metadata that pass it on; the name of the upstream ends them."""

MOST = 16

_NAME = re.compile(r"[a-z0-9_-]{1,32}")
_TOKEN = re.compile(r"[!-~]{1,16384}")
_NONE: Mapping[str, str] = MappingProxyType({})

UPSTREAM_TOKENS: ContextVar[Mapping[str, str]] = ContextVar("upstream_tokens")
"""Those of the request that the current task works for, by upstream; set for every request that is let in."""


def tokens_in(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The first 16 that have the form of a name and a token; headers are in lower case."""
    found = {
        name: value
        for key, value in headers.items()
        if key.startswith(HEADER) and _NAME.fullmatch(name := key.removeprefix(HEADER)) and _TOKEN.fullmatch(value)
    }
    return dict(list(found.items())[:MOST]) if found else _NONE


def current() -> Mapping[str, str]:
    """Those of the request in work, if any."""
    return UPSTREAM_TOKENS.get(_NONE)

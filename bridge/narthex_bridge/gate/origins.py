"""The web pages that may call from a browser, and what their browsers are told (CORS)."""

import re
from collections.abc import Iterable
from functools import lru_cache

from narthex_bridge.config.bridge import ANY_ORIGIN
from narthex_bridge.config.loopback import is_loopback
from narthex_bridge.gate.hosts import REMEMBERED, hostname
from narthex_bridge.http.messages import HttpResponse
from narthex_bridge.http.refusal import Header, Refusal, Refused

EXPOSED = (
    "mcp-session-id, mcp-protocol-version, x-request-id, www-authenticate, retry-after,"
    " x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset"
)
REMEMBERED_S = 600
_ACCEPTED = re.compile(
    r"accept|authorization|content-type|last-event-id|mcp-(session-id|protocol-version|method|name|param-[!-~]+)"
    r"|x-request-id|x-api-key|anthropic-(version|beta)|openai-(organization|project|beta)|x-stainless-[a-z-]+"
    r"|idempotency-key|x-narthex-priority"
    r"|traceparent|tracestate|baggage"
)


class Origins:
    """Pages of this machine and those that are allowed.

    Credentials are headers that a page must set itself, never cookies: browsers are not told to send any along.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(allowed)
        self._local = lru_cache(REMEMBERED)(_local)

    def check(self, origin: str) -> tuple[Header, ...]:
        """The headers that let the page read the answer; raises Refused for a foreign page."""
        if ANY_ORIGIN in self._allowed:
            return (("access-control-allow-origin", ANY_ORIGIN), ("access-control-expose-headers", EXPOSED))
        if origin not in self._allowed and not self._local(origin):
            raise Refused("origin", Refusal(403, "This Origin is not allowed here; see allowed_origins."))
        return (
            ("access-control-allow-origin", origin),
            ("access-control-expose-headers", EXPOSED),
            ("vary", "origin"),
        )

    def preflight(self, methods: Iterable[str], headers: str) -> HttpResponse:
        """The answer to a browser that asks which of `headers` and methods it may send."""
        asked = {name.strip().lower() for name in headers.split(",")}
        return HttpResponse(
            204,
            headers=(
                ("access-control-allow-methods", ", ".join(sorted({*methods, "OPTIONS"}))),
                ("access-control-allow-headers", ", ".join(sorted(filter(_ACCEPTED.fullmatch, asked)))),
                ("access-control-max-age", str(REMEMBERED_S)),
                ("vary", "access-control-request-headers"),
            ),
        )


def _local(origin: str) -> bool:
    return origin.startswith(("http://", "https://")) and is_loopback(hostname(origin))

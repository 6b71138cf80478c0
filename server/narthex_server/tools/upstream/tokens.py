"""Callers' own tokens for upstreams, which end there and are used for nobody else."""

from collections.abc import Iterable, Mapping

from narthex_server.errors import Unauthenticated

HEADER = "x-narthex-upstream-token-"
"""How the metadata begins that brings one; the name of the upstream, in lower case, ends it."""

REQUIRED = "UPSTREAM_TOKEN_REQUIRED"


def tokens_in(metadata: Iterable[tuple[str, str | bytes]]) -> Mapping[str, str]:
    """The tokens that a call brings, by the names of upstreams in lower case."""
    return {
        key.removeprefix(HEADER): value
        for key, value in metadata
        if key.startswith(HEADER) and isinstance(value, str) and value
    }


def token_for(upstream: str, tokens: Mapping[str, str]) -> str:
    """The caller's token for an upstream; raises Unauthenticated, which says what to send, where there is none."""
    if token := tokens.get(upstream.lower()):
        return token
    raise required(upstream, "is called with a token of the caller's own")


def required(upstream: str, why: str) -> Unauthenticated:
    """The error for a caller whose token is missing or not taken."""
    header = f"{HEADER}{upstream.lower()}"
    return Unauthenticated(
        f"upstream {upstream!r} {why}; send a valid one as {header}",
        reason=REQUIRED,
        metadata={"upstream": upstream, "header": header},
    )

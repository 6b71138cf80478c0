"""A caller's own token, on its way to the one upstream that it is for."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from narthex_server.tools.tool import CallContext
from narthex_server.tools.upstream.auth import Auth, Passthrough
from narthex_server.tools.upstream.secrets import Secrets
from narthex_server.tools.upstream.tokens import required, token_for


@dataclass(slots=True)
class Grant:
    """The token of the call that the current task works for; `refused` when the upstream did not take it."""

    token: str = field(repr=False)
    refused: bool = False


GRANT: ContextVar[Grant | None] = ContextVar("grant", default=None)


@contextmanager
def granted(upstream: str, auth: Auth | None, context: CallContext, secrets: Secrets) -> Iterator[None]:
    """What is sent inside the block shows the caller's token, where the upstream takes such ones.

    Raises Unauthenticated for a caller without one, and in place of any other error for one whose token is not taken.
    """
    if not isinstance(auth, Passthrough):
        yield
        return
    grant = Grant(token_for(upstream, context.upstream_tokens))
    secrets.note_brought(grant.token)
    before = GRANT.set(grant)
    try:
        yield
    except GeneratorExit:
        raise
    except Exception:
        if grant.refused:
            raise required(upstream, "does not take the token of this call") from None
        raise
    finally:
        GRANT.reset(before)
    if grant.refused:
        raise required(upstream, "does not take the token of this call")

"""Who is calling the bridge, and what the server is told about it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from narthex.keys import KeyRing


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated client of the bridge; `assertion` is the server's x-narthex-principal metadata."""

    name: str
    tenant: str
    assertion: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # ASCII, as metadata must be.
        object.__setattr__(self, "assertion", json.dumps({"name": self.name, "tenant": self.tenant}))


LOCAL = Caller("local", "default")

Authenticate = Callable[[str], Caller | None]


def authenticator(keys: KeyRing | None) -> Authenticate:
    """The check of an Authorization header: None is refused. Without keys everybody is the local caller."""
    if keys is None:
        return lambda _: LOCAL

    def authenticate(header: str) -> Caller | None:
        scheme, _, token = header.partition(" ")
        key = keys.principal(token.strip()) if scheme.lower() == "bearer" and token else None
        return Caller(key.name, key.tenant) if key else None

    return authenticate

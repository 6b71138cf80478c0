"""What a transport is given by whoever connects through it."""

from collections.abc import Callable
from dataclasses import dataclass

from narthex_server.sync.locks import UNMETERED, Locks
from narthex_server.tools.upstream.secrets import Secrets


@dataclass(frozen=True, slots=True)
class Link:
    """`ended` is to be told why the server went, before the streams close; `refused` what the session's own error does
    not name, such as the HTTP status of a request that is not allowed."""

    name: str
    secrets: Secrets
    ended: Callable[[str], None]
    refused: Callable[[str], None]
    locks: Locks = UNMETERED

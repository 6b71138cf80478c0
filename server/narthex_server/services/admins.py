"""What only admins may do."""

import ipaddress
from typing import Any
from urllib.parse import unquote

from grpc.aio import ServicerContext

from narthex_server.errors import PermissionDenied
from narthex_server.principal import CALLER, LOCAL


def check_admin(context: ServicerContext[Any, Any], to_do: str) -> None:
    """Lets admin keys pass and, where there are no keys, callers on the server's own machine.

    `to_do` says in a sentence what the others may not. Errors: PermissionDenied.
    """
    caller = CALLER.get()
    if caller is LOCAL and not _near(context.peer()):
        raise PermissionDenied(
            f"Without API keys, only callers on the server's own machine may {to_do}; "
            "make an admin key: `narthex keys new --admin`."
        )
    if not caller.admin:
        raise PermissionDenied(f"Only an admin key may {to_do}; make one: `narthex keys new --admin`.")


def _near(peer: str) -> bool:
    """Whether gRPC's name of a peer, such as `ipv6:[::1]:50000`, is on this machine."""
    kind, _, place = unquote(peer).partition(":")
    if kind in ("unix", "unix-abstract"):
        return True
    try:
        return ipaddress.ip_address(place.rpartition(":")[0].strip("[]")).is_loopback
    except ValueError:
        return False

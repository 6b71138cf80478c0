"""narthex for Python: a small async client; the contract itself is `narthex.v1`.

The client is imported when it is first used, so that `narthex.settings` and `narthex.keys` need nothing but Python.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from narthex.client import Client as Client
    from narthex.errors import NarthexError as NarthexError
    from narthex.errors import Violation as Violation

__all__ = ["Client", "NarthexError", "Violation"]


def __getattr__(name: str) -> object:
    if name == "Client":
        from narthex.client import Client

        return Client
    if name in ("NarthexError", "Violation"):
        from narthex import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

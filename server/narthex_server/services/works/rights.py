"""Whether a caller who is not there may still have work done."""

from typing import Protocol

from narthex.keys import KeyRing

from narthex_server.errors import PermissionDenied
from narthex_server.principal import Principal

REVOKED = "KEY_REVOKED"


class Rights(Protocol):
    """Looks at those whose work is begun, whenever it is."""

    def check(self, principal: Principal) -> None:
        """Raises PermissionDenied where it may not have its work done any more."""
        ...


class KeyRights:
    """Rights are those of the keys that a caller had: they have to be there, in time, and allow as much as they did.

    With `required` a caller without a key, whom a server let in that asked for none, has none.
    """

    def __init__(self, keys: KeyRing, *, required: bool) -> None:
        self._keys = keys
        self._required = required

    def check(self, principal: Principal) -> None:
        if principal.voucher:
            voucher = self._keys.named(principal.voucher)
            self._insist(voucher is not None and voucher.delegate)
        if principal.key:
            key = self._keys.named(principal.key)
            self._insist(key is not None and key.tenant == principal.tenant and principal.tools.within(key.tools))
            self._insist(key is not None and (key.admin or not principal.admin))
        elif not principal.voucher:
            self._insist(not self._required)

    @staticmethod
    def _insist(fits: bool) -> None:
        if not fits:
            raise PermissionDenied(
                "the key that this work was given with is not known any more, has expired, or may do less than then",
                reason=REVOKED,
            )

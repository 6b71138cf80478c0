"""Whose work an order is, as it is kept."""

import json
from dataclasses import dataclass

from narthex.scopes import ToolScope

from narthex_server.principal import CALLER, SESSION, Principal


@dataclass(frozen=True, slots=True)
class Whose:
    """A caller, the session of its that the work belongs to, and its name for a call; no secret of its is kept."""

    principal: Principal
    session: str = ""
    call: str = ""

    @classmethod
    def now(cls, call: str = "") -> "Whose":
        """The caller of the running RPC."""
        return cls(CALLER.get(), SESSION.get(), call)

    @classmethod
    def parse(cls, data: bytes) -> "Whose":
        said = json.loads(data)
        principal = Principal(
            said["name"], said["tenant"], ToolScope(tuple(said["tools"])), said["admin"], said.get("key", ""),
            said.get("voucher", ""),
        )  # fmt: skip
        return cls(principal, said["session"], said.get("call", ""))

    def dump(self) -> bytes:
        one = self.principal
        said = {
            "name": one.name, "tenant": one.tenant, "tools": one.tools.globs, "admin": one.admin,
            "key": one.key, "voucher": one.voucher, "session": self.session,
            "call": self.call,
        }  # fmt: skip
        return json.dumps(said).encode()

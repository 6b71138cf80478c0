"""Who is calling the bridge, and what the server is told about it."""

import hashlib
import json
from dataclasses import dataclass, field, replace

from narthex.rates import Rate
from narthex.scopes import ALL_TOOLS, ToolScope


@dataclass(frozen=True, slots=True)
class Caller:
    """A client of the bridge, the same for as long as its name, tenant and tools are.

    `assertion` is the server's x-narthex-principal metadata; a `rate` of None is the limit for everybody. `session` is
    what the server is told of the session that it calls in, empty for none.
    """

    name: str
    tenant: str
    tools: ToolScope = ALL_TOOLS
    rate: Rate | None = field(default=None, compare=False)
    session: str = field(default="", compare=False)
    assertion: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        said: dict[str, object] = {"name": self.name, "tenant": self.tenant}
        if self.tools != ALL_TOOLS:
            said["tools"] = self.tools.globs
        object.__setattr__(self, "assertion", json.dumps(said))  # ASCII, as metadata must be

    def within(self, session_id: str) -> "Caller":
        """The caller in a session of this id, which only its client and the bridge may know."""
        return replace(self, session=hashlib.sha256(session_id.encode()).hexdigest()[:32])


LOCAL = Caller("local", "default")

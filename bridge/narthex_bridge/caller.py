"""Who is calling the bridge, and what the server is told about it."""

import json
from dataclasses import dataclass, field

from narthex.rates import Rate
from narthex.scopes import ALL_TOOLS, ToolScope


@dataclass(frozen=True, slots=True)
class Caller:
    """A client of the bridge, the same for as long as its name, tenant and tools are.

    `assertion` is the server's x-narthex-principal metadata; a `rate` of None is the limit for everybody.
    """

    name: str
    tenant: str
    tools: ToolScope = ALL_TOOLS
    rate: Rate | None = field(default=None, compare=False)
    assertion: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        said: dict[str, object] = {"name": self.name, "tenant": self.tenant}
        if self.tools != ALL_TOOLS:
            said["tools"] = self.tools.globs
        object.__setattr__(self, "assertion", json.dumps(said))  # ASCII, as metadata must be


LOCAL = Caller("local", "default")

"""What of the catalog is there for whom."""

from typing import Protocol

from narthex_server.principal import Principal
from narthex_server.tools.prompt import Prompt
from narthex_server.tools.resource import Resource, ResourceTemplate
from narthex_server.tools.tool import Tool


class Visibility(Protocol):
    """What is not shown to a caller is not listed for it, and cannot be told from what is not there."""

    def shows(self, item: Tool | Prompt | Resource | ResourceTemplate, principal: Principal) -> bool: ...


class Everything:
    """The catalog without a policy."""

    def shows(self, item: Tool | Prompt | Resource | ResourceTemplate, principal: Principal) -> bool:
        return True


EVERYTHING = Everything()

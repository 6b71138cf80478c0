"""What a rule is about: one entry of the catalog."""

from dataclasses import dataclass
from typing import Literal

from narthex_server.tools.names import unqualified_uri
from narthex_server.tools.prompt import Prompt
from narthex_server.tools.resource import Resource, ResourceTemplate
from narthex_server.tools.tool import Tool

Kind = Literal["tools", "prompts", "resources"]
KINDS: tuple[Kind, ...] = ("tools", "prompts", "resources")
Item = Tool | Prompt | Resource | ResourceTemplate


@dataclass(frozen=True, slots=True)
class Subject:
    """An entry under the name that callers use; `own_name` is its server's, empty for what is our own.

    A resource's name is its URI or its template, as its server gives it. `annotations` are JSON as that server claims.
    """

    kind: Kind
    name: str
    server: str = ""
    own_name: str = ""
    annotations: bytes = b""


def subject_of(item: Item) -> Subject:
    match item:
        case Tool():
            return Subject("tools", item.name, item.server, item.own_name, item.annotations)
        case Prompt():
            return Subject("prompts", item.name, item.server, item.own_name)
        case Resource():
            return Subject("resources", unqualified_uri(item.server, item.uri) or item.uri, item.server)
        case ResourceTemplate():
            own = unqualified_uri(item.server, item.uri_template)
            return Subject("resources", own or item.uri_template, item.server)

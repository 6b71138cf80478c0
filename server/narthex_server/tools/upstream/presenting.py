"""How an upstream is presented, as its configuration says: the keys of ours about names, choice and descriptions."""

import re
from typing import Literal, cast, get_args

from narthex_server.tools.names import LIMIT
from narthex_server.tools.presentation import Presentation, Scan
from narthex_server.tools.upstream.node import Node

Namespace = Literal["prefix", "flat"]
"""Tools as `<server>__<tool>`, or under their own names."""

NAMESPACE = "namespace"
"""The key, of a server or of the whole file."""

PRESENTATION = (NAMESPACE, "tool_prefix", "rename", "describe", "include", "exclude", "scan")
"""The keys of a server."""

_NAMESPACES = cast(tuple[Namespace, ...], get_args(Namespace))
_SCANS = cast(tuple[Scan, ...], get_args(Scan))
_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{LIMIT}}}")


def namespace_of(node: Node, default: Namespace = "prefix") -> Namespace:
    """What the file or the server says, or `default`; raises SourceError."""
    return node.choice(NAMESPACE, (default, *(known for known in _NAMESPACES if known != default)))


def presentation_of(server: Node, namespace: Namespace) -> Presentation:
    """The presentation that the keys of one server say, and else the `namespace` of its file; raises SourceError."""
    prefix = server.optional("tool_prefix")
    if prefix is not None and NAMESPACE in server.value:
        raise server.error("cannot stand beside tool_prefix, which says the same", NAMESPACE)
    if prefix is None and namespace_of(server, namespace) == "flat":
        prefix = ""
    rename = server.mapping("rename")
    for own, name in rename.items():
        if not _NAME.fullmatch(name):
            raise server.error(f"must be 1 to {LIMIT} letters, digits, _ and -", f"rename.{own}")
    if len(set(rename.values())) < len(rename):
        raise server.error("gives two tools the same name", "rename")
    return Presentation(
        prefix=prefix,
        rename=rename,
        describe=server.mapping("describe"),
        include=server.texts("include") if "include" in server.value else ("*",),
        exclude=server.texts("exclude"),
        scan=server.choice("scan", _SCANS) if "scan" in server.value else None,
    )

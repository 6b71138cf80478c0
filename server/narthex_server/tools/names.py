"""The names and URIs that tools, prompts and resources are exposed under."""

import hashlib
import re
from dataclasses import dataclass
from enum import Enum

from narthex_server.tools.presentation import PLAIN, Presentation

LIMIT = 64
"""The longest function name that every LLM API accepts."""

_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_-]")


class RenameReason(Enum):
    """Why something is not called what it would be, or may be taken for something else."""

    TAKEN = "taken"  # something before it has the name
    RESERVED = "reserved"  # the name begins like those of another server
    CHARACTERS = "characters"  # clients do not accept all of them
    LENGTH = "length"
    RESEMBLES = "resembles"  # another name looks the same


@dataclass(frozen=True, slots=True)
class Renamed:
    """What a server calls `own_name` and callers `name`; `other` is the name that it collides with, if it is that."""

    server: str
    own_name: str
    name: str
    reason: RenameReason
    other: str = ""


def plain_name(server: str, tool: str, presentation: Presentation = PLAIN) -> str:
    """`<server>__<tool>`, `<prefix>_<tool>` where one is set, or what the tool is renamed to; in any characters."""
    if renamed := presentation.rename.get(tool):
        return renamed
    prefix = presentation.prefix
    return f"{server}__{tool}" if prefix is None else f"{prefix}_{tool}" if prefix else tool


def exposed_name(server: str, tool: str, presentation: Presentation = PLAIN) -> str:
    """The plain name in letters and length that every client accepts."""
    clean = _NOT_ALLOWED.sub("_", plain_name(server, tool, presentation))
    return clean if 0 < len(clean) <= LIMIT else distinct_name(clean, server, tool)


def distinct_name(name: str, server: str, tool: str, attempt: int = 0) -> str:
    """`name` with a short hash of its origin, for names too long or taken; the same origin gives the same name.

    Another `attempt` gives another name.
    """
    origin = f"{server}\0{tool}\0{attempt}" if attempt else f"{server}\0{tool}"
    digest = hashlib.sha256(origin.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{name[: LIMIT - 9]}_{digest}"


def aliases(server: str, tool: str) -> tuple[str, ...]:
    """Other spellings that calls may use."""
    return f"{server}::{tool}", f"{server}.{tool}", f"{server}__{tool}"


def qualified_uri(server: str, uri: str) -> str:
    """The URI with its server's name in front of the scheme, which has no `_`."""
    return f"{server.replace('_', '-')}+{uri}"


def unqualified_uri(server: str, uri: str) -> str:
    """What is behind the server's name in a qualified URI, whatever the case of the name; nothing for other URIs."""
    head = qualified_uri(server, "")
    return uri[len(head) :] if uri[: len(head)].lower() == head.lower() else ""

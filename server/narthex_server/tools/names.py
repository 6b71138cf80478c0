"""The names and URIs that tools, prompts and resources are exposed under."""

import hashlib
import re

LIMIT = 64
"""The longest function name that every LLM API accepts."""

_NOT_ALLOWED = re.compile(r"[^A-Za-z0-9_-]")


def exposed_name(server: str, tool: str, prefix: str | None = None) -> str:
    """`<server>__<tool>`, or `<prefix>_<tool>` where one is set, in letters and length that every client accepts."""
    plain = f"{server}__{tool}" if prefix is None else f"{prefix}_{tool}" if prefix else tool
    clean = _NOT_ALLOWED.sub("_", plain)
    return clean if len(clean) <= LIMIT else distinct_name(clean, server, tool)


def distinct_name(name: str, server: str, tool: str) -> str:
    """`name` with a short hash of its origin, for names too long or taken; the same origin gives the same name."""
    digest = hashlib.sha256(f"{server}\0{tool}".encode()).hexdigest()[:8]
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

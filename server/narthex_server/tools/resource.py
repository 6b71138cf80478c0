"""A resource, a family of them, and what one holds."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Resource:
    """What a caller sees of a resource; annotations, icons and meta are JSON as the server gave it, or empty."""

    uri: str
    name: str
    title: str = ""
    description: str = ""
    mime_type: str = ""
    size: int | None = None  # bytes
    annotations: bytes = b""
    icons: bytes = b""
    meta: bytes = b""
    server: str = ""  # the upstream that owns it


@dataclass(frozen=True, slots=True)
class ResourceTemplate:
    """What a caller sees of a family of resources, as for Resource; `uri_template` is one of RFC 6570."""

    uri_template: str
    name: str
    title: str = ""
    description: str = ""
    mime_type: str = ""
    annotations: bytes = b""
    icons: bytes = b""
    meta: bytes = b""
    server: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of what a resource holds: text or bytes."""

    uri: str
    content: str | bytes
    mime_type: str = ""
    meta: bytes = b""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a resource holds; it may be kept for `ttl_ms`, 0 where that is not known."""

    parts: tuple[Part, ...]
    meta: bytes = b""
    ttl_ms: int = 0

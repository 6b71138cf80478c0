"""URIs as different servers read them."""

import re
from collections.abc import Iterator
from urllib.parse import unquote

_RESERVED = re.compile(r"[:/?#\[\]@!$&'()*+,;=]")
"""What may stand between parts of a URI (RFC 3986, 2.2), wherever its server looks for a path."""


MOST_DECODINGS = 3
"""As often as somebody may decode one."""


def is_plain(uri: str) -> bool:
    """Whether a URI, or a template of one, stays where it seems to be: no steps upwards, in no spelling of them."""
    for _ in range(MOST_DECODINGS):
        if not uri.isprintable() or "\\" in uri:
            return False
        if any(part.strip(" ") in (".", "..") for part in _RESERVED.split(uri)):
            return False
        if (decoded := unquote(uri)) == uri:
            return True
        uri = decoded
    return False


def readings(uri: str) -> Iterator[str]:
    """A URI, and what servers may take it for: decoded, shortened, its scheme and host in lower case."""
    for _ in range(MOST_DECODINGS + 1):
        yield uri
        yield _canonical(uri)
        if (decoded := unquote(uri)) == uri:
            return
        uri = decoded


def _canonical(uri: str) -> str:
    scheme, colon, rest = re.split(r"[?#]", uri, maxsplit=1)[0].partition(":")
    authority = ""
    if rest.startswith("//"):
        host, slash, path = rest[2:].partition("/")
        authority, rest = f"//{host.lower()}", slash + path
    return f"{scheme.lower()}{colon}{authority}{re.sub('/{2,}', '/', rest)}"

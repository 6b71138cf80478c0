"""URIs that mean one thing to everybody who reads them."""

import re
from urllib.parse import unquote

_RESERVED = re.compile(r"[:/?#\[\]@!$&'()*+,;=]")
"""What may stand between parts of a URI (RFC 3986, 2.2), wherever its server looks for a path."""


def is_plain(uri: str) -> bool:
    """Whether a URI, or a template of one, stays where it seems to be: no steps upwards, in no spelling of them."""
    for _ in range(3):  # as often as somebody may decode it
        if not uri.isprintable() or "\\" in uri:
            return False
        if any(part.strip(" ") in (".", "..") for part in _RESERVED.split(uri)):
            return False
        if (decoded := unquote(uri)) == uri:
            return True
        uri = decoded
    return False

"""URIs that mean one thing to everybody who reads them."""

from urllib.parse import unquote


def is_plain(uri: str) -> bool:
    """Whether a URI, or a template of one, stays where it seems to be: no steps upwards, in no spelling of them."""
    for _ in range(3):  # as often as somebody may decode it
        if not uri.isprintable() or "\\" in uri:
            return False
        if any(part in (".", "..") for part in uri.replace("?", "/").replace("#", "/").split("/")):
            return False
        if (decoded := unquote(uri)) == uri:
            return True
        uri = decoded
    return False

"""URLs of upstreams, which may hold keys."""

from urllib.parse import parse_qsl, urlsplit

from narthex_server.tools.upstream.secrets import Secrets


def note_url(url: str, secrets: Secrets) -> None:
    """What a URL may hold of a key, and the URL itself where it does."""
    parts = urlsplit(url)
    held = [value for _, value in parse_qsl(parts.query)] + ([parts.password] if parts.password else [])
    held += [pair.partition("=")[2] for pair in parts.query.split("&") if "=" in pair]  # as they are written there
    for value in held:
        secrets.note(value)
    if held:
        secrets.note(url)

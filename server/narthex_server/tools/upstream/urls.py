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


def origin(url: str) -> tuple[str, str, int | None]:
    """Whose answers a URL is for: scheme, host and port."""
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port

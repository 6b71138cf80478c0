"""What an upstream was configured with stays out of what is said about it."""

from collections.abc import Iterator
from typing import TypeGuard

from narthex_server.tools.upstream.secrets import Text
from narthex_server.tools.upstream.source import Http, Process, ServerSource, WebSocket

SHORTEST = 6
"""Shorter values are words and numbers that any text may hold."""


class Redaction:
    """Takes values of headers, variables and arguments, and the URL, out of texts about one upstream."""

    def __init__(self, source: ServerSource) -> None:
        found = {value for value in _values(source) if len(value) >= SHORTEST}
        self._values = sorted(found, key=len, reverse=True)  # one may be a part of another

    def of(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, "***")
        return text


def _values(source: ServerSource) -> Iterator[str]:
    match source.transport:
        case Process(_, args, env):
            yield from args
            yield from filter(_is_plain, env.values())
        case Http(url, headers) | WebSocket(url, headers):
            yield url
            for value in filter(_is_plain, headers.values()):
                yield value
                yield value.rpartition(" ")[2]  # behind `Bearer`


def _is_plain(value: Text) -> TypeGuard[str]:
    """What is in a file is hidden by Secrets, once it has been read."""
    return isinstance(value, str)

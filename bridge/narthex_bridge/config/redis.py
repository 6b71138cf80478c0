"""Where Redis is."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """Where Redis is; shown without its password."""

    url: str

    @classmethod
    def parse(cls, text: str) -> Self:
        if urlsplit(text).scheme not in ("redis", "rediss", "unix"):
            raise ValueError("is not a URL like redis://HOST:PORT/0, rediss://… or unix://PATH")
        return cls(text)

    def __str__(self) -> str:
        scheme, _, rest = self.url.partition("://")
        secret, at, place = rest.rpartition("@")
        return f"{scheme}://{'…' if secret else ''}{at}{place}"

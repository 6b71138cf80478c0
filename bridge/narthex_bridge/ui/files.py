"""The files of the page."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Self

from narthex_bridge.http.messages import HttpRequest, HttpResponse
from narthex_bridge.http.refusal import Refusal

_TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
}  # fmt: skip
PAGE = "index.html"
# Nothing but the page's own files, no scripts or styles in markup, and (trusted types) no text that becomes markup.
_POLICY = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
        "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
        "require-trusted-types-for 'script'", "trusted-types 'none'",
    )
)  # fmt: skip
_HEADERS = (
    ("content-security-policy", _POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-cache"),
)


@dataclass(frozen=True, slots=True)
class File:
    """A file as it is sent."""

    body: bytes
    content_type: str
    etag: str

    @classmethod
    def read(cls, source: Traversable) -> Self:
        body = source.read_bytes()
        return cls(body, _TYPES[PurePosixPath(source.name).suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')

    def answer(self, http: HttpRequest) -> HttpResponse:
        """All of it, or nothing where the browser has this very version."""
        headers = (*_HEADERS, ("etag", self.etag))
        known = {tag.strip().removeprefix("W/") for tag in http.headers.get("if-none-match", "").split(",")}
        if not known.isdisjoint((self.etag, "*")):
            return HttpResponse(304, b"", self.content_type, headers)
        return HttpResponse(200, self.body, self.content_type, headers)


class Files:
    """Read once; what is not among them does not exist, whatever its path."""

    def __init__(self, sources: Iterable[Traversable]) -> None:
        self._files = {
            source.name: File.read(source) for source in sources if PurePosixPath(source.name).suffix in _TYPES
        }

    @classmethod
    def of_package(cls) -> Self:
        return cls(files("narthex_bridge.ui").joinpath("static").iterdir())

    async def page(self, http: HttpRequest) -> HttpResponse:
        return self._files[PAGE].answer(http)

    async def get(self, http: HttpRequest) -> HttpResponse:
        found = self._files.get(http.path["file"])
        if found is None or http.path["file"] == PAGE:  # its links lead on from /ui
            raise Refusal(404, "The status page has no such file.")
        return found.answer(http)

    async def unslashed(self, http: HttpRequest) -> HttpResponse:
        """Leads from /ui/ to /ui, also behind a proxy that puts something before it."""
        return HttpResponse(308, headers=(("location", "../ui"),))

"""An MCP server over stdio that searches the documents under one folder: text, Markdown and HTML.

They are read from the start on, and again when they have changed; a question that comes meanwhile waits.
"""

import argparse
import asyncio
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import quote, unquote

import mcp_types as types
from narthex.bm25 import Index, terms, weighed

from narthex_mcp.pages import text_of_page, title_of
from narthex_mcp.root import Root
from narthex_mcp.toolbox import Answer, Argument, Refused, Resources, ToolSpec, create_server, serve

ENDINGS = (".txt", ".md", ".markdown", ".rst", ".html", ".htm")
MAX_DOCUMENTS = 20_000
MAX_DOCUMENT = 8 * 1024 * 1024
MAX_TOTAL = 32 * 1024 * 1024
PASSAGE = 1200
"""Characters of a passage, about: what is found is a passage, and shown is the best one of each document."""
SNIPPET = 300
CONTEXT = 60
"""Characters shown before the first word that was looked for."""
FRESH = 2.0
"""Seconds for which the folder is not looked through again."""
SCHEME = "document:///"

_STRING, _COUNT = {"type": "string"}, {"type": "integer"}
_HEADING = re.compile(r"^#{1,6} +(.+)$|^(.+)\n[=-]{3,}$", re.MULTILINE)
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\S+")

_State = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Document:
    """A document as text; `state` tells another content of its file."""

    path: str
    title: str
    text: str
    state: _State
    passages: int


class Library:
    """The documents under `root`, searched by BM25 over their passages; thread-safe."""

    def __init__(self, root: Path) -> None:
        self._root = Root(root)
        self._index: Index[tuple[str, int]] = Index()
        self._documents: dict[str, Document] = {}
        self._no_text: dict[str, _State] = {}
        self._lock = Lock()
        self._looked = -math.inf

    def refresh(self) -> None:
        """Reads what is new or has changed, and forgets what is gone."""
        with self._lock:
            now: dict[str, Document] = {}
            total = 0
            for place in self._root.files(seconds=60):
                if not place.name.lower().endswith(ENDINGS) or len(now) == MAX_DOCUMENTS:
                    continue
                path = self._root.name(place)
                document = self._read(path, place, MAX_TOTAL - total)
                if document is not None:
                    now[path] = document
                    total += len(document.text)
            for path in self._documents.keys() - now.keys():
                self._forget(path)
            self._documents = now
            self._looked = time.monotonic()

    def search(self, query: str, limit: int) -> Answer:
        """The documents that fit, the best first, each with the passage that fits best."""
        self._freshen()
        with self._lock:
            best: dict[str, int] = {}
            for path, passage in self._index.search(query, limit * 20):
                best.setdefault(path, passage)
            results = [self._result(path, passage, query) for path, passage in list(best.items())[:limit]]
        lines = [
            f"{one['document']} ({one['title']}), from character {one['start']}: {one['snippet']}" for one in results
        ]
        return Answer("\n\n".join(lines) or "nothing found", {"results": results})

    def get_document(self, document: str, start: int, length: int) -> Answer:
        """A part of a document's text."""
        self._freshen()
        with self._lock:
            found = self._find(document)
        text = found.text[start : start + length]
        facts = {
            "document": found.path, "title": found.title, "text": text, "start": min(start, len(found.text)),
            "total": len(found.text),
        }  # fmt: skip
        return Answer(text, facts)

    def list_documents(self, start: int, count: int) -> Answer:
        """Paths, titles and lengths, by path."""
        self._freshen()
        with self._lock:
            paths = sorted(self._documents)
            listed = [self._documents[path] for path in paths[start : start + count]]
        documents = [{"document": one.path, "title": one.title, "characters": len(one.text)} for one in listed]
        lines = [f"{one['document']} ({one['title']}), {one['characters']} characters" for one in documents]
        return Answer("\n".join(lines), {"documents": documents, "total": len(paths)})

    def resources(self) -> list[types.Resource]:
        """The first 1,000 documents."""
        self._freshen()
        with self._lock:
            listed = [self._documents[path] for path in sorted(self._documents)[:1000]]
        return [
            types.Resource(uri=SCHEME + quote(one.path), name=one.path, title=one.title, mime_type="text/plain")
            for one in listed
        ]

    def read_resource(self, uri: str) -> types.TextResourceContents:
        self._freshen()
        with self._lock:
            found = self._find(unquote(uri.removeprefix(SCHEME)))
        return types.TextResourceContents(uri=uri, mime_type="text/plain", text=found.text)

    def _freshen(self) -> None:
        if time.monotonic() - self._looked > FRESH:
            self.refresh()

    def _find(self, path: str) -> Document:
        if (found := self._documents.get(path)) is None:
            raise Refused(f"there is no document {path[:200]!r}; list_documents names them")
        return found

    def _read(self, path: str, place: Path, room: int) -> Document | None:
        """The document as it is now, put into the index; None for what is no text, too large or gone."""
        try:
            known, status = self._documents.get(path), place.stat()
            if known is not None and known.state == _state(status):
                return known
            if status.st_size > min(MAX_DOCUMENT, room) or self._no_text.get(path) == _state(status):
                return None
            with self._root.opened(self._root.inside(path)) as file:
                state = _state(os.fstat(file.fileno()))
                data = file.read(MAX_DOCUMENT + 1)
        except (OSError, Refused):
            return None
        if len(data) > min(MAX_DOCUMENT, room):
            return None
        if b"\0" in data:
            self._no_text[path] = state
            return None
        self._no_text.pop(path, None)
        title, text = _readable(data.decode(errors="replace"), place.suffix.lower())
        self._forget(path)
        count = 0
        for count, (_, passage) in enumerate(_passages(text), 1):
            fields = [(passage, 1.0), (title, 0.5), *([(path, 2.0), (title, 2.5)] if count == 1 else [])]
            self._index.put((path, count - 1), weighed(fields))
        return Document(path, title or place.name, text, state, count)

    def _forget(self, path: str) -> None:
        if (known := self._documents.get(path)) is not None:
            for passage in range(known.passages):
                self._index.drop((path, passage))

    def _result(self, path: str, passage: int, query: str) -> dict[str, Any]:
        document = self._documents[path]
        start, text = next(found for number, found in enumerate(_passages(document.text)) if number == passage)
        at, snippet = _snippet(text, frozenset(terms(query)))
        return {"document": path, "title": document.title, "start": start + at, "snippet": snippet}


def _state(status: os.stat_result) -> _State:
    return status.st_mtime_ns, status.st_size, status.st_ino


def _readable(text: str, ending: str) -> tuple[str, str]:
    """Title and text of a document."""
    if ending in (".html", ".htm"):
        return title_of(text)[:200], text_of_page(text)
    heading = _HEADING.search(text[:10_000])
    title = (heading[1] or heading[2]) if heading else ""
    return title.rstrip(" #").strip()[:200], text


def _passages(text: str) -> Iterator[tuple[int, str]]:
    """Where each passage begins, and the passage: paragraphs, as many as go together."""
    start = 0
    while start < len(text):
        end = start + PASSAGE
        if end < len(text):
            cut = max(text.rfind("\n\n", start + PASSAGE // 2, end), text.rfind("\n", start + PASSAGE * 3 // 4, end))
            end = cut + 1 if cut > start else end
        yield start, text[start:end]
        start = end


def _snippet(passage: str, wanted: frozenset[str]) -> tuple[int, str]:
    """Where the part of a passage with the most of the wanted words begins, and the part on one line."""
    words = [match.start() for match in _WORD.finditer(passage)]
    hits = [(match.start(), hit) for match in _WORD.finditer(passage) if (hit := wanted.intersection(terms(match[0])))]
    best, at = 0, 0
    for position, _ in hits:
        found: set[str] = set().union(*(hit for where, hit in hits if position <= where < position + SNIPPET))
        if len(found) > best:
            best, at = len(found), position
    before = [word for word in words if at - CONTEXT <= word < at]
    start = before[0] if before else at
    return start, _SPACE.sub(" ", passage[start : start + SNIPPET]).strip()


def tools(library: Library) -> tuple[ToolSpec, ...]:
    result = {
        "type": "object",
        "properties": {"document": _STRING, "title": _STRING, "start": _COUNT, "snippet": _STRING},
    }
    listed = {"type": "object", "properties": {"document": _STRING, "title": _STRING, "characters": _COUNT}}
    return (
        ToolSpec(
            "search", "Search the documents; answers the best ones with a passage of each",
            {"query": Argument("A few words"), "limit": Argument("The most documents", ("integer",), 5, 1, 50)},
            {"results": {"type": "array", "items": result}}, library.search,
        ),
        ToolSpec(
            "get_document", "Read a document, or a part of it",
            {
                "document": Argument("As search and list_documents name it"),
                "start": Argument("The first character, from 0", ("integer",), 0, 0, MAX_DOCUMENT),
                "length": Argument("How many characters", ("integer",), 20_000, 1, 200_000),
            },
            {"document": _STRING, "title": _STRING, "text": _STRING, "start": _COUNT, "total": _COUNT},
            library.get_document,
        ),
        ToolSpec(
            "list_documents", "List the documents",
            {
                "start": Argument("How many to pass over", ("integer",), 0, 0, MAX_DOCUMENTS),
                "count": Argument("The most documents", ("integer",), 200, 1, 1000),
            },
            {"documents": {"type": "array", "items": listed}, "total": _COUNT}, library.list_documents,
        ),
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="narthex-mcp-search", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, help="the folder with the documents")
    root: Path = parser.parse_args(argv).root
    if not root.is_dir():
        print(f"narthex-mcp-search: {root} is not a directory", file=sys.stderr)
        return 2
    library = Library(root)
    Thread(target=library.refresh, daemon=True).start()
    template = types.ResourceTemplate(
        uri_template=SCHEME + "{+path}", name="document", description="A document as text"
    )
    resources = Resources(library.resources, library.read_resource, (template,))
    about = "Documents of one folder: search them, then read what was found."
    asyncio.run(serve(create_server("narthex-search", about, tools(library), resources)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

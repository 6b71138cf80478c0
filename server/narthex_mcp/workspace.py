"""An MCP server over stdio for the files under one folder, and nothing else.

A path is relative to that folder whatever it begins with; what leads outside, by `..` or by a link, is refused.
Hidden files are not listed or found and never changed, but can be read by name. Nothing is changed without `--write`.
"""

import argparse
import asyncio
import mimetypes
import os
import stat
import sys
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import mcp_types as types

from narthex_mcp.root import MAX_FILE, Root, text_of
from narthex_mcp.toolbox import (
    Answer,
    Argument,
    Refused,
    Resources,
    ToolSpec,
    create_server,
    serve,
)

MAX_ENTRIES = 1000
MAX_MATCHES = 500
MAX_TEXT = 256 * 1024
"""Bytes of lines that one call reads."""
LONGEST_LINE = 2000
"""Characters of a line that are shown."""
SCHEME = "workspace:///"

_STRING, _COUNT = {"type": "string"}, {"type": "integer"}
_STRINGS = {"type": "array", "items": _STRING}


class Workspace:
    """The files under `root`."""

    def __init__(self, root: Path) -> None:
        self._root = Root(root)

    def list_directory(self, path: str) -> Answer:
        """`[FILE] name` and `[DIR] name`, one a line, sorted by name; the first 1,000."""
        folder = self._root.inside(path)
        if not folder.is_dir():
            raise Refused(f"{path} is a file, not a directory; use read_file")
        entries = sorted(e for e in folder.iterdir() if self._root.shown(e))
        shown = [{"name": e.name, "kind": "directory" if e.is_dir() else "file"} for e in entries[:MAX_ENTRIES]]
        lines = [f"[{'DIR' if e['kind'] == 'directory' else 'FILE'}] {e['name']}" for e in shown]
        if left := len(entries) - len(shown):
            lines.append(f"… and {left} more")
        return Answer("\n".join(lines), {"entries": shown, "left_out": left})

    def read_file(self, path: str) -> Answer:
        """The text of a file of at most 1 MiB."""
        data = self._root.read(path)
        text = text_of(data, path)
        return Answer(text, {"text": text, "size": len(data)})

    def read_lines(self, path: str, first: int, count: int) -> Answer:
        """Some lines of a text file of any size, numbered from 1."""
        place = self._root.inside(path)
        if not place.is_file():
            raise Refused(f"{path} is not a regular file")
        taken: list[str] = []
        size = number = 0
        with self._root.opened(place) as file:
            while size < MAX_TEXT and len(taken) < count and (line := file.readline(MAX_TEXT)):
                number += 1
                if number < first:
                    continue
                size += len(line)
                taken.append(text_of(line.rstrip(b"\r\n"), path))
            more = bool(file.read(1))
        return Answer("\n".join(taken), {"lines": taken, "first": first, "more": more})

    def search_files(self, pattern: str) -> Answer:
        """The relative paths of files whose name has `pattern` in it, case aside; the first 1,000."""
        wanted = pattern.casefold()
        found = sorted(self._root.name(f) for f in self._root.files() if wanted in f.name.casefold())
        text = "\n".join(found[:MAX_ENTRIES]) or f"no {pattern} found"
        return Answer(text, {"paths": found[:MAX_ENTRIES], "left_out": max(len(found) - MAX_ENTRIES, 0)})

    def search_text(self, text: str, path: str, name: str) -> Answer:
        """`path:line: text` of the lines of text files below `path` that have `text` in them, case aside."""
        if not text.strip():
            raise Refused("text is empty; say what to look for")
        wanted, part = text.casefold(), name.casefold()
        folder = self._root.inside(path)
        matches: list[dict[str, Any]] = []
        for place in self._root.files(folder) if folder.is_dir() else (folder,):
            if part not in place.name.casefold():
                continue
            try:
                content = text_of(self._root.read(self._root.name(place)), "")
            except (Refused, OSError):  # not text, too large, or gone
                continue
            for number, line in enumerate(content.splitlines(), 1) if wanted in content.casefold() else ():
                if wanted in line.casefold():
                    if len(matches) == MAX_MATCHES:
                        return _matches(matches, True)
                    matches.append({"path": self._root.name(place), "line": number, "text": line[:LONGEST_LINE]})
        return _matches(matches, False)

    def file_info(self, path: str) -> Answer:
        """Kind, size in bytes and time of change."""
        place = self._root.inside(path)
        status = place.stat(follow_symlinks=False)
        kind = "directory" if stat.S_ISDIR(status.st_mode) else "file" if stat.S_ISREG(status.st_mode) else "other"
        changed = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="seconds")
        facts = {"path": self._root.name(place), "kind": kind, "size": status.st_size, "modified": changed}
        return Answer("\n".join(f"{key}: {value}" for key, value in facts.items()), facts)

    def write_file(self, path: str, content: str, overwrite: bool) -> Answer:
        """Writes a whole text file, at once."""
        place = self._target(path)
        self._root.write(place, _data(content), overwrite)
        return self._done("wrote", place)

    def edit_file(self, path: str, old: str, new: str) -> Answer:
        """Replaces a text that is in the file exactly once."""
        place = self._target(path)
        content = text_of(self._root.read(self._root.name(place)), path)
        if not old or (count := content.count(old)) != 1:
            how = "is empty" if not old else f"is in {path} {count} times"
            raise Refused(f"old {how}; give a text that is in the file exactly once")
        self._root.write(place, _data(content.replace(old, new)), True)
        return self._done("edited", place)

    def create_directory(self, path: str) -> Answer:
        place = self._root.place(path)
        with self._root.parent(place) as parent:
            try:
                os.mkdir(place.name, 0o755, dir_fd=parent)
            except FileExistsError:
                if not place.is_dir():
                    raise Refused(f"{path} is there and not a directory") from None
        return self._done("created", place)

    def move_file(self, source: str, destination: str) -> Answer:
        """Moves or renames a file or a directory; nothing is overwritten."""
        place, target = self._root.place(source), self._root.place(destination)
        if not os.path.lexists(place):
            raise Refused(f"{source} not found")
        if os.path.lexists(target):
            raise Refused(f"{destination} exists already")
        if target.is_relative_to(place):
            raise Refused(f"{destination} is within {source}")
        with self._root.parent(place) as before, self._root.parent(target) as after:
            os.rename(place.name, target.name, src_dir_fd=before, dst_dir_fd=after)
        return self._done("moved", target)

    def delete_file(self, path: str) -> Answer:
        """Deletes a file, a link or an empty directory."""
        place = self._root.place(path)
        with self._root.parent(place) as parent:
            try:
                if place.is_dir() and not place.is_symlink():
                    os.rmdir(place.name, dir_fd=parent)
                else:
                    os.unlink(place.name, dir_fd=parent)
            except FileNotFoundError:
                raise Refused(f"{path} not found") from None
        return self._done("deleted", place)

    def resources(self) -> list[types.Resource]:
        """The first 1,000 files."""
        return [
            types.Resource(
                uri=SCHEME + quote(self._root.name(place)),
                name=self._root.name(place),
                mime_type=mimetypes.guess_type(place.name)[0],
            )
            for place in islice(self._root.files(), MAX_ENTRIES)
        ]

    def read_resource(self, uri: str) -> types.TextResourceContents | types.BlobResourceContents:
        if not uri.startswith(SCHEME):
            raise Refused(f"{uri[:200]} is not of this server, whose URIs begin with {SCHEME}")
        path = unquote(uri.removeprefix(SCHEME))
        data, kind = self._root.read(path), mimetypes.guess_type(path)[0]
        try:
            return types.TextResourceContents(uri=uri, mime_type=kind or "text/plain", text=text_of(data, path))
        except Refused:
            blob = b64encode(data).decode()
            return types.BlobResourceContents(uri=uri, mime_type=kind or "application/octet-stream", blob=blob)

    def _target(self, path: str) -> Path:
        """Where a path is written to: what a link leads to, if it is one."""
        place = self._root.place(path)
        return self._root.place(self._root.name(self._root.inside(path))) if place.is_symlink() else place

    def _done(self, what: str, place: Path) -> Answer:
        name = self._root.name(place)
        return Answer(f"{what} {name}", {"path": name})


def _matches(matches: list[dict[str, Any]], more: bool) -> Answer:
    lines = [f"{match['path']}:{match['line']}: {match['text']}" for match in matches]
    return Answer(
        "\n".join([*lines, *(["… and more"] if more else [])]) or "nothing found", {"matches": matches, "more": more}
    )


def _data(content: str) -> bytes:
    data = content.encode()
    if len(data) > MAX_FILE:
        raise Refused(f"the content is {len(data)} bytes; at most {MAX_FILE} can be written")
    return data


def tools(workspace: Workspace, write: bool) -> tuple[ToolSpec, ...]:
    """Those that read, and with `write` those that change."""
    path = Argument("File, relative to the workspace root")
    match = {"type": "object", "properties": {"path": _STRING, "line": _COUNT, "text": _STRING}}
    entry = {"type": "object", "properties": {"name": _STRING, "kind": {"enum": ["file", "directory"]}}}
    done = {"path": _STRING}
    reading = (
        ToolSpec(
            "list_directory", "List the files in a directory",
            {"path": Argument("Directory, relative to the workspace root")},
            {"entries": {"type": "array", "items": entry}, "left_out": _COUNT}, workspace.list_directory,
        ),
        ToolSpec(
            "read_file", "Read a text file", {"path": path}, {"text": _STRING, "size": _COUNT}, workspace.read_file
        ),
        ToolSpec(
            "search_files", "Find files by name", {"pattern": Argument("Part of the file name")},
            {"paths": _STRINGS, "left_out": _COUNT}, workspace.search_files,
        ),
        ToolSpec(
            "read_lines", "Read some lines of a text file, which may be large",
            {
                "path": path,
                "first": Argument("Number of the first line, from 1", ("integer",), 1, 1, 1 << 31),
                "count": Argument("How many lines", ("integer",), 200, 1, 5000),
            },
            {"lines": _STRINGS, "first": _COUNT, "more": {"type": "boolean"}}, workspace.read_lines,
        ),
        ToolSpec(
            "search_text", "Find lines of text files that contain a text, without regard to case",
            {
                "text": Argument("What to look for, as it stands"),
                "path": Argument("Directory or file to look in", default="."),
                "name": Argument("Only files with this in their name", default=""),
            },
            {"matches": {"type": "array", "items": match}, "more": {"type": "boolean"}}, workspace.search_text,
        ),
        ToolSpec(
            "file_info", "Tell kind, size and time of change of a file or directory", {"path": path},
            {"path": _STRING, "kind": {"enum": ["file", "directory", "other"]}, "size": _COUNT, "modified": _STRING},
            workspace.file_info,
        ),
    )  # fmt: skip
    changing = (
        ToolSpec(
            "write_file", "Write a text file",
            {
                "path": path,
                "content": Argument("The whole text"),
                "overwrite": Argument("Whether to replace a file that is there", ("boolean",), False),
            },
            done, workspace.write_file, "changes",
        ),
        ToolSpec(
            "edit_file", "Replace a text in a file, where it stands exactly once",
            {"path": path, "old": Argument("The text that is there"), "new": Argument("What to put in its place")},
            done, workspace.edit_file, "changes",
        ),
        ToolSpec("create_directory", "Create a directory", {"path": path}, done, workspace.create_directory, "adds"),
        ToolSpec(
            "move_file", "Move or rename a file or directory; nothing is overwritten",
            {"source": path, "destination": path}, done, workspace.move_file, "changes",
        ),
        ToolSpec(
            "delete_file", "Delete a file or an empty directory", {"path": path}, done, workspace.delete_file, "changes"
        ),
    )  # fmt: skip
    return (*reading, *changing) if write else reading


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="narthex-mcp-workspace", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, help="the folder whose files can be read")
    parser.add_argument("--write", action="store_true", help="files can be written, moved and deleted, too")
    options = parser.parse_args(argv)
    if not options.root.is_dir():
        print(f"narthex-mcp-workspace: {options.root} is not a directory", file=sys.stderr)
        return 2
    workspace = Workspace(options.root)
    template = types.ResourceTemplate(
        uri_template=SCHEME + "{+path}", name="file", description="A file of the workspace"
    )
    resources = Resources(workspace.resources, workspace.read_resource, (template,))
    about = "The files of one folder, by paths relative to it."
    asyncio.run(serve(create_server("narthex-workspace", about, tools(workspace, options.write), resources)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""An MCP server over stdio that reads the files under one folder, and nothing else.

A path is relative to that folder whatever it begins with; what leads outside, by `..` or by a link, is refused.
Hidden files are not listed or found, but can be read by name.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server

MAX_FILE = 1024 * 1024
MAX_ENTRIES = 1000
MAX_VISITED = 100_000

_READS = types.ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)


class Refused(Exception):
    """The text tells the caller what to do."""


class Workspace:
    """The readable files under `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve(strict=True)

    def list_directory(self, path: str) -> str:
        """`[FILE] name` and `[DIR] name`, one a line, sorted by name; the first 1,000."""
        folder = self._inside(path)
        if not folder.is_dir():
            raise Refused(f"{path} is a file, not a directory; use read_file")
        entries = sorted(e for e in folder.iterdir() if self._shown(e))
        lines = [f"[{'DIR' if e.is_dir() else 'FILE'}] {e.name}" for e in entries[:MAX_ENTRIES]]
        if len(entries) > MAX_ENTRIES:
            lines.append(f"… and {len(entries) - MAX_ENTRIES} more")
        return "\n".join(lines)

    def read_file(self, path: str) -> str:
        """The text of a file of at most 1 MiB."""
        file = self._inside(path)
        if file.is_dir():
            raise Refused(f"{path} is a directory; use list_directory")
        if not file.is_file():  # opening a pipe or a device may never return
            raise Refused(f"{path} is not a regular file")
        with open(file, "rb", opener=_open_itself) as stream:
            data = stream.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise Refused(f"{path} is {file.stat().st_size} bytes; at most {MAX_FILE} can be read")
        try:
            if b"\0" in data:
                raise ValueError
            return data.decode()
        except ValueError:
            raise Refused(f"{path} is not a text file") from None

    def search_files(self, pattern: str) -> str:
        """The relative paths of files whose name has `pattern` in it, case aside; the first 1,000."""
        wanted = pattern.casefold()
        found = sorted(f for f in self._files() if wanted in os.path.basename(f).casefold())
        return "\n".join(found[:MAX_ENTRIES]) or f"no {pattern} found"

    def _files(self) -> Iterator[str]:
        visited = 0
        for folder, folders, files in os.walk(self._root):  # does not follow links to folders
            folders[:] = sorted(d for d in folders if not d.startswith("."))
            for name in files:
                visited += 1
                if visited > MAX_VISITED:
                    return
                path = Path(folder, name)
                if self._shown(path):
                    yield path.relative_to(self._root).as_posix()

    def _inside(self, path: str) -> Path:
        try:
            # resolved first, then compared: links are followed before the question where they lead
            whole = (self._root / path.lstrip("/\\")).resolve(strict=True)
        except FileNotFoundError:
            raise Refused(f"{path} not found") from None
        except (OSError, ValueError, RuntimeError):
            raise Refused(f"{path[:200]!r} is not a path that can be read") from None
        if not whole.is_relative_to(self._root):
            raise Refused(f"{path} is outside the workspace")
        return whole

    def _shown(self, entry: Path) -> bool:
        """Whether an entry is to be seen: not hidden, and not a link that leads outside or nowhere."""
        if entry.name.startswith("."):
            return False
        if not entry.is_symlink():
            return True
        try:
            return entry.resolve(strict=True).is_relative_to(self._root)
        except (OSError, RuntimeError):
            return False


def _open_itself(path: str, flags: int) -> int:
    """Opens no link and waits for no writer: the file may have been exchanged since it was looked at."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _tool(name: str, description: str, argument: str, about: str) -> types.Tool:
    schema = {
        "type": "object",
        "properties": {argument: {"type": "string", "description": about}},
        "required": [argument],
    }
    return types.Tool(name=name, description=description, input_schema=schema, annotations=_READS)


TOOLS = (
    _tool("list_directory", "List the files in a directory", "path", "Directory, relative to the workspace root"),
    _tool("read_file", "Read a text file", "path", "File, relative to the workspace root"),
    _tool("search_files", "Find files by name", "pattern", "Part of the file name"),
)


def create_server(workspace: Workspace) -> Server:
    """The MCP server; a call that cannot be answered gives a result with `isError` that says what to do."""
    run: dict[str, tuple[str, Callable[[str], str]]] = {
        "list_directory": ("path", workspace.list_directory),
        "read_file": ("path", workspace.read_file),
        "search_files": ("pattern", workspace.search_files),
    }

    async def list_tools(context: object, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=list(TOOLS))

    async def call_tool(context: object, params: types.CallToolRequestParams) -> types.CallToolResult:
        if params.name not in run:
            return _result(f"there is no tool named {params.name}; there are: {', '.join(run)}", is_error=True)
        argument, function = run[params.name]
        value = (params.arguments or {}).get(argument)
        if not isinstance(value, str):
            return _result(f"{argument} is required and must be a string", is_error=True)
        try:
            return _result(await asyncio.to_thread(function, value))
        except (Refused, OSError) as error:
            text = str(error) if isinstance(error, Refused) else f"{value} cannot be read: {error.strerror}"
            return _result(text, is_error=True)

    return Server("narthex-workspace", version="0.1.0", on_list_tools=list_tools, on_call_tool=call_tool)


def _result(text: str, is_error: bool = False) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)], is_error=is_error)


async def serve(root: Path) -> None:
    """Serves standard input and output until the input ends."""
    server = create_server(Workspace(root))
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="narthex-mcp-workspace", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("root", type=Path, help="the folder whose files can be read")
    root: Path = parser.parse_args(argv).root
    if not root.is_dir():
        print(f"narthex-mcp-workspace: {root} is not a directory", file=sys.stderr)
        return 2
    asyncio.run(serve(root))
    return 0


if __name__ == "__main__":
    sys.exit(main())

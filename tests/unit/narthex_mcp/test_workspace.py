import json
import os
import sys

import mcp_types as types
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from narthex_mcp.workspace import MAX_FILE, Refused, Workspace, main


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (root / "notes.txt").write_text("hällo")
    (root / "docs" / "Guide.md").write_text("# guide")
    (root / ".secret").write_text("x")
    (root / "picture.bin").write_bytes(b"\x89PNG\0\xff")
    (root / "latin.txt").write_bytes(b"\xe4")
    (tmp_path / "outside.txt").write_text("private")
    return root


@pytest.fixture
def workspace(root):
    return Workspace(root)


@pytest.mark.parametrize("path", [".", "/", "", "docs/.."])
def test_the_root_is_listed(workspace, path):
    assert workspace.list_directory(path) == ("[DIR] docs\n[FILE] latin.txt\n[FILE] notes.txt\n[FILE] picture.bin")


@pytest.mark.parametrize("path", ["docs/Guide.md", "/docs/Guide.md", "./docs/../docs/Guide.md"])
def test_files_are_read(workspace, path):
    assert workspace.read_file(path) == "# guide"


def test_search_finds_names_without_regard_to_case(workspace):
    assert workspace.search_files("guide") == "docs/Guide.md"
    assert workspace.search_files("TXT") == "latin.txt\nnotes.txt"
    assert workspace.search_files("zebra") == "no zebra found"
    assert workspace.search_files("secret") == "no secret found"


@pytest.mark.parametrize("path", ["../outside.txt", "docs/../../outside.txt", "/../outside.txt"])
def test_what_is_outside_is_refused(workspace, path):
    with pytest.raises(Refused, match="outside the workspace"):
        workspace.read_file(path)
    with pytest.raises(Refused, match="outside the workspace"):
        workspace.list_directory(os.path.dirname(path) + "/../..")


def test_links_are_followed_inside_only(workspace, root):
    (root / "in").symlink_to("notes.txt")
    (root / "out").symlink_to(root.parent / "outside.txt")
    (root / "outdir").symlink_to(root.parent)
    (root / "loop").symlink_to("loop")
    assert workspace.read_file("in") == "hällo"
    for path in ("out", "outdir/outside.txt"):
        with pytest.raises(Refused, match="outside the workspace"):
            workspace.read_file(path)
    with pytest.raises(Refused):
        workspace.read_file("loop")
    listing = workspace.list_directory(".")
    assert "[FILE] in" in listing and "out" not in listing and "loop" not in listing
    assert workspace.search_files("out") == "no out found"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("picture.bin", "is not a text file"),
        ("latin.txt", "is not a text file"),
        ("docs", "is a directory"),
        ("absent", "absent not found"),
        ("nul\0l", "is not a path"),
        ("x" * 5000, "is not a path"),
    ],
)
def test_what_cannot_be_read_is_told(workspace, path, why):
    with pytest.raises(Refused, match=why):
        workspace.read_file(path)


def test_huge_files_are_refused(workspace, root):
    (root / "huge.txt").write_text("x" * (MAX_FILE + 1))
    with pytest.raises(Refused, match="at most"):
        workspace.read_file("huge.txt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_a_pipe_does_not_hang(workspace, root):
    os.mkfifo(root / "pipe")
    with pytest.raises(Refused, match="not a regular file"):
        workspace.read_file("pipe")


def test_a_root_that_is_no_folder_is_a_usage_error(root, capsys):
    assert main([str(root / "notes.txt")]) == 2
    assert "is not a directory" in capsys.readouterr().err


async def test_the_tools_are_exactly_these_over_stdio(root):
    server = StdioServerParameters(command=sys.executable, args=["-m", "narthex_mcp.workspace", str(root)])
    async with Client(server) as client:
        listed = (await client.list_tools()).tools
        assert [(t.name, t.description, json.dumps(t.input_schema)) for t in listed] == [
            (name, about, json.dumps({"type": "object", "properties": properties, "required": list(properties)}))
            for name, about, properties in (
                (
                    "list_directory",
                    "List the files in a directory",
                    {"path": {"type": "string", "description": "Directory, relative to the workspace root"}},
                ),
                (
                    "read_file",
                    "Read a text file",
                    {"path": {"type": "string", "description": "File, relative to the workspace root"}},
                ),
                (
                    "search_files",
                    "Find files by name",
                    {"pattern": {"type": "string", "description": "Part of the file name"}},
                ),
            )
        ]
        assert all(t.annotations.read_only_hint and t.annotations.idempotent_hint for t in listed)
        result = await client.call_tool("read_file", {"path": "notes.txt"})
        assert result.content == [types.TextContent(type="text", text="hällo")]
        refused = await client.call_tool("read_file", {"path": "../outside.txt"})
        assert refused.is_error and "outside the workspace" in refused.content[0].text

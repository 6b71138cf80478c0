import json
import os

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError
from narthex_mcp.root import MAX_FILE, Root
from narthex_mcp.toolbox import Refused
from narthex_mcp.workspace import Workspace, main, tools


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
    assert workspace.list_directory(path).text == ("[DIR] docs\n[FILE] latin.txt\n[FILE] notes.txt\n[FILE] picture.bin")


@pytest.mark.parametrize("path", ["docs/Guide.md", "/docs/Guide.md", "./docs/../docs/Guide.md"])
def test_files_are_read(workspace, path):
    assert workspace.read_file(path).text == "# guide"


def test_search_finds_names_without_regard_to_case(workspace):
    assert workspace.search_files("guide").text == "docs/Guide.md"
    assert workspace.search_files("TXT").text == "latin.txt\nnotes.txt"
    assert workspace.search_files("zebra").text == "no zebra found"
    assert workspace.search_files("secret").text == "no secret found"


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
    assert workspace.read_file("in").text == "hällo"
    for path in ("out", "outdir/outside.txt"):
        with pytest.raises(Refused, match="outside the workspace"):
            workspace.read_file(path)
    with pytest.raises(Refused):
        workspace.read_file("loop")
    listing = workspace.list_directory(".").text
    assert "[FILE] in" in listing and "out" not in listing and "loop" not in listing
    assert workspace.search_files("out").text == "no out found"


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


async def test_the_first_tools_are_exactly_these(root, running):
    async with running("workspace", str(root)) as tester:
        told = [(t.name, t.description, json.dumps(t.input_schema)) for t in tester.tools.values()]
        assert told[:3] == [
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
        assert list(tester.tools)[3:] == ["read_lines", "search_text", "file_info"]
        assert all(t.annotations.read_only_hint and t.annotations.idempotent_hint for t in tester.tools.values())
        result = await tester.client.call_tool("read_file", {"path": "notes.txt"})
        assert result.content == [types.TextContent(type="text", text="hällo")]
        assert "outside the workspace" in await tester.refusal("read_file", path="../outside.txt")
        assert await tester.refusal("write_file", path="x", content="y") == (
            "there is no tool named write_file; there are: "
            "list_directory, read_file, search_files, read_lines, search_text, file_info"
        )


async def test_what_is_read_has_a_structure(root, running):
    (root / "long.txt").write_text("".join(f"line {n}\n" for n in range(1, 90_001)))
    async with running("workspace", str(root)) as tester:
        listed = await tester.facts("list_directory", path="docs")
        assert listed == {"entries": [{"name": "Guide.md", "kind": "file"}], "left_out": 0}
        assert await tester.facts("read_file", path="notes.txt") == {"text": "hällo", "size": 6}
        lines = await tester.facts("read_lines", path="long.txt", first=89_999, count=5)
        assert lines == {"lines": ["line 89999", "line 90000"], "first": 89_999, "more": False}
        assert (await tester.facts("read_lines", path="long.txt", count=1))["more"]
        assert len((await tester.facts("read_lines", path="long.txt"))["lines"]) == 200
        found = await tester.facts("search_text", text="GUIDE")
        assert found == {"matches": [{"path": "docs/Guide.md", "line": 1, "text": "# guide"}], "more": False}
        assert len((await tester.facts("search_text", text="line", name="long"))["matches"]) == 500
        assert (await tester.facts("search_text", text="line", path="docs"))["matches"] == []
        info = await tester.facts("file_info", path="notes.txt")
        assert (info["kind"], info["size"]) == ("file", 6) and info["modified"].endswith("+00:00")
        assert await tester.refusal("read_lines", path="notes.txt", count=0) == "count must be between 1 and 5000"
        assert await tester.refusal("read_lines", path="notes.txt", first=True) == "first must be integer"
        assert "is not an argument" in await tester.refusal("read_file", path="x", mode="rw")
        assert await tester.refusal("read_file") == "path is required and must be string"


async def test_files_are_resources(root, running):
    (root / "with space.txt").write_text("spaced")
    async with running("workspace", str(root)) as tester:
        uris = [str(one.uri) for one in (await tester.client.list_resources()).resources]
        assert uris[:2] == ["workspace:///latin.txt", "workspace:///notes.txt"]
        assert "workspace:///docs/Guide.md" in uris and not any(".secret" in uri for uri in uris)
        (text,) = (await tester.client.read_resource("workspace:///with%20space.txt")).contents
        assert text.text == "spaced"
        (blob,) = (await tester.client.read_resource("workspace:///picture.bin")).contents
        assert blob.blob == "iVBORwD/"
        for uri in ("workspace:///../outside.txt", "workspace:///absent", "file:///etc/passwd"):
            with pytest.raises(MCPError):
                await tester.client.read_resource(uri)


async def test_files_are_changed_where_that_is_allowed(root, running):
    async with running("workspace", str(root), "--write") as tester:
        assert await tester.facts("write_file", path="new.txt", content="one two") == {"path": "new.txt"}
        assert "exists already" in await tester.refusal("write_file", path="new.txt", content="other")
        await tester.facts("edit_file", path="new.txt", old="two", new="2")
        assert (root / "new.txt").read_text() == "one 2"
        for old in ("", "three"):
            assert "exactly once" in await tester.refusal("edit_file", path="new.txt", old=old, new="x")
        (root / "new.txt").chmod(0o640)
        await tester.facts("write_file", path="new.txt", content="whole", overwrite=True)
        assert (root / "new.txt").read_text() == "whole" and (root / "new.txt").stat().st_mode & 0o777 == 0o640
        await tester.facts("create_directory", path="sub")
        await tester.facts("create_directory", path="sub")
        assert await tester.facts("move_file", source="new.txt", destination="sub/moved.txt") == {
            "path": "sub/moved.txt"
        }
        assert "exists already" in await tester.refusal("move_file", source="notes.txt", destination="sub/moved.txt")
        assert "is within" in await tester.refusal("move_file", source="sub", destination="sub/sub")
        assert "delete_file failed" in await tester.refusal("delete_file", path="sub")
        await tester.facts("delete_file", path="sub/moved.txt")
        await tester.facts("delete_file", path="sub")
        assert not (root / "sub").exists() and not list(root.glob(".narthex-*"))
        assert "at most" in await tester.refusal("write_file", path="big", content="x" * (MAX_FILE + 1))
        hints = {name: tool.annotations.destructive_hint for name, tool in tester.tools.items()}
        assert hints["write_file"] and hints["delete_file"] and not hints["read_file"]


async def test_nothing_outside_and_nothing_hidden_is_changed(root, running):
    outside = root.parent / "outside.txt"
    (root / "out").symlink_to(outside)
    (root / "outdir").symlink_to(root.parent)
    (root / "dangling").symlink_to(root.parent / "new.txt")
    (root / "in").symlink_to("notes.txt")
    (root / ".git").mkdir()
    before = sorted(root.parent.iterdir())
    async with running("workspace", str(root), "--write") as tester:
        for path in (
            "../new.txt", "/../new.txt", "docs/../../new.txt", "outdir/new.txt", "out", "dangling", ".", "/", "..", "",
            "docs/..", ".secret", ".git/hook", "docs/.hidden", "nul\0l", "x" * 300, "x/" * 3000, "absent/new.txt",
        ):  # fmt: skip
            assert await tester.refusal("write_file", path=path, content="x", overwrite=True), path
            assert await tester.refusal("edit_file", path=path, old="private", new="x"), path
            assert await tester.refusal("move_file", source="notes.txt", destination=path), path
            if path not in ("out", "dangling"):  # a link may be removed, not what it leads to
                assert await tester.refusal("delete_file", path=path), path
                assert await tester.refusal("create_directory", path=path), path
        await tester.facts("write_file", path="in", content="through the link", overwrite=True)
        await tester.facts("delete_file", path="out")
    assert outside.read_text() == "private" and sorted(root.parent.iterdir()) == before
    assert (root / "notes.txt").read_text() == "through the link" and (root / "in").is_symlink()
    assert (root / ".secret").read_text() == "x" and list((root / ".git").iterdir()) == []


def test_a_folder_that_is_exchanged_for_a_link_is_not_followed(workspace, root):
    inner = Root(root)
    place = inner.inside("docs/Guide.md")
    (root / "docs").rename(root / "moved")
    (root / "docs").symlink_to(root.parent)
    (root.parent / "Guide.md").write_text("private")
    with pytest.raises(OSError), inner.opened(place):
        pass
    with pytest.raises(OSError):
        inner.write(place, b"x", True)
    assert (root.parent / "Guide.md").read_text() == "private"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_nothing_is_written_into_a_pipe(root):
    os.mkfifo(root / "pipe")
    with pytest.raises(Refused, match="not a regular file"):
        Root(root).write(root / "pipe", b"x", True)
    assert (root / "pipe").is_fifo()


async def test_names_that_are_no_text_are_not_shown_and_stop_nothing(root, running):
    folder = os.fsencode(root) + b"/\xff"
    os.mkdir(folder)
    (root / "notes.txt").rename(os.fsdecode(folder + b"/\xfe.txt"))
    (root / "odd").symlink_to(os.fsdecode(folder))
    async with running("workspace", str(root)) as tester:
        listed = (await tester.facts("list_directory", path="."))["entries"]
        assert [entry["name"] for entry in listed] == ["docs", "latin.txt", "odd", "picture.bin"]
        assert (await tester.facts("search_text", text="hällo"))["matches"] == []
        assert "no text" in await tester.refusal("file_info", path="odd")


def test_arguments_with_half_a_character_or_too_deep_are_refused(root):
    read = tools(Workspace(root), False)[1]
    deep: list = []
    for _ in range(10_000):
        deep = [deep]
    for path in ("\ud800", deep):
        with pytest.raises(Refused, match="half a character"):
            read.answer({"path": path})

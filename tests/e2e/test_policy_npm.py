"""A policy before the reference file server of the npm registry, which would give more than the policy does."""

import pytest

from tests.e2e.installed import npm
from tests.e2e.policed import policed

pytestmark = pytest.mark.system

POLICY = """
[[rules]]
name = "read below files"
effect = "allow"
servers = ["fs"]
tools = ["read_text_file", "list_directory"]
arguments = {"/path" = {paths_under = "%(root)s/files"}}

[[rules]]
name = "read several below files"
effect = "allow"
servers = ["fs"]
tools = ["read_multiple_files"]
arguments = {"/paths/*" = {paths_under = "%(root)s/files"}}

[[rules]]
name = "move out of the inbox, once"
effect = "allow"
servers = ["fs"]
tools = ["move_file"]
arguments."/source" = {paths_under = "%(root)s/files/inbox"}
arguments."/destination" = {paths_under = "%(root)s/files", not = {paths_under = "%(root)s/files/inbox"}}
rate = "1/day"
"""


async def test_files(tmp_path):
    root = tmp_path.resolve()
    (root / "files" / "inbox").mkdir(parents=True)
    for name in ("outside.txt", "files/a.txt", "files/inbox/new.txt", "files/inbox/newer.txt"):
        (root / name).write_text(f"text of {name}")
    (root / "files" / "link").symlink_to(root)
    servers = {"fs": npm("@modelcontextprotocol/server-filesystem", str(root))}
    wanted = {"fs__read_text_file", "fs__list_directory", "fs__read_multiple_files", "fs__move_file"}
    async with policed(root, servers, POLICY % {"root": root}, wanted) as stack, stack.stub() as stub:
        assert set(await stack.names(stub, "ann")) == wanted

        async def read(*paths: str) -> bytes:
            given = {"path": paths[0]} if len(paths) == 1 else {"paths": list(paths)}
            name = "fs__read_text_file" if len(paths) == 1 else "fs__read_multiple_files"
            return (await stack.call(stub, "ann", name, **given))[-1].result.content

        async def reason(name: str, **arguments: object) -> str:
            return (await stack.refused(stub, "ann", name, **arguments))[1]

        files = str(root / "files")
        assert b"text of files/a.txt" in await read(f"{files}/a.txt")
        assert b"text of files/inbox/new.txt" in await read(f"{files}/a.txt", f"{files}/inbox/../inbox/new.txt")
        for path in (f"{root}/outside.txt", f"{files}/../outside.txt", f"{files}/link/outside.txt", f"{files}/link"):
            assert await reason("fs__read_text_file", path=path) == "POLICY_DENIED"
            assert await reason("fs__read_multiple_files", paths=[f"{files}/a.txt", path]) == "POLICY_DENIED"
        assert await reason("fs__list_directory", path=str(root)) == "POLICY_DENIED"
        assert await reason("fs__write_file", path=f"{files}/a.txt", content="") == "TOOL_NOT_FOUND"

        new, newer = f"{files}/inbox/new.txt", f"{files}/inbox/newer.txt"
        for target in (f"{root}/new.txt", f"{files}/link/new.txt", f"{files}/inbox/renamed.txt"):
            assert await reason("fs__move_file", source=new, destination=target) == "POLICY_DENIED"
        assert await reason("fs__move_file", source=f"{files}/a.txt", destination=f"{files}/b.txt") == "POLICY_DENIED"
        await stack.call(stub, "ann", "fs__move_file", source=new, destination=f"{files}/new.txt")
        assert await reason("fs__move_file", source=newer, destination=f"{files}/newer.txt") == "POLICY_RATE"
    left = {
        str(path.relative_to(root / "files")) for path in (root / "files").rglob("*.txt") if "link" not in path.parts
    }
    assert left == {"a.txt", "new.txt", "inbox/newer.txt"} and (root / "outside.txt").exists()

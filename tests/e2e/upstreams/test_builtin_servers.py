"""The built-in servers behind narthex, configured as their documentation says."""

import asyncio
import json
import os
import re
import sqlite3
import sys
import tomllib
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from narthex_server.errors import InvalidToolArguments, Unavailable
from narthex_server.principal import LOCAL
from narthex_server.tools.server import ServerState
from narthex_server.tools.tool import CallContext

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "builtin-servers.md").read_text("utf-8")
PROGRAMS = {
    name: target.removesuffix(":main")
    for name, target in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"].items()
    if name.startswith("narthex-mcp-")
}

PATHS = (
    "../secret.md", "/../secret.md", "/etc/passwd", "out/secret.md", "link.md", "pipe.md", "out", "..", "", "a\0b",
    "..\\secret.md", "x" * 5000, "%2e%2e/secret.md",
)  # fmt: skip


@pytest.fixture
def documented(tmp_path):
    """The configuration of the page, with folders that are there and the programs of this source tree."""
    (tmp_path / "project").mkdir()
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / "install.md").write_text("# Installing\n\nUnpack the crate on level ground.\n")
    with sqlite3.connect(tmp_path / "shop.db") as shop:
        shop.executescript("CREATE TABLE tea (name TEXT, grams INT); INSERT INTO tea VALUES ('oolong', 50)")
    shop.close()
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    servers = json.loads(text.replace("/srv", str(tmp_path)))["mcpServers"]
    assert {entry["command"] for entry in servers.values()} == PROGRAMS.keys()
    for entry in servers.values():
        entry["args"] = ["-m", PROGRAMS[entry["command"]], *entry["args"]]
        entry["command"] = sys.executable
        entry["env"] = {"PYTHONPATH": os.pathsep.join(sys.path)}  # children have not the whole environment
    return servers


def facts(events):
    assert not events[-1].is_error, events[-1].content
    return json.loads(events[-1].structured_content)


async def test_the_documented_configuration_works(gateway, documented, tmp_path):
    async with gateway(documented) as running:
        assert [status.state for status in running.catalog.servers()] == [ServerState.READY] * 3
        await running.call("workspace__write_file", b'{"path":"plan.txt","content":"Drink tea"}')
        assert (tmp_path / "project" / "plan.txt").read_text() == "Drink tea"
        found = facts(await running.call("workspace__search_text", b'{"text":"TEA"}'))
        assert found["matches"] == [{"path": "plan.txt", "line": 1, "text": "Drink tea"}]
        rows = facts(await running.call("shop__query", b'{"sql":"SELECT * FROM tea WHERE grams > ?","parameters":[9]}'))
        assert rows["rows"] == [["oolong", 50]]
        results = facts(await running.call("manual__search", b'{"query":"where to unpack crates"}'))["results"]
        assert [one["document"] for one in results] == ["install.md"]
        listed = [resource.uri for resource in running.catalog.view(LOCAL).resources.listed]
        assert listed == ["sqlite:///schema", "document:///install.md"]
        read = await running.catalog.view(LOCAL).resources.read("workspace:///plan.txt", "", CallContext(LOCAL, "test"))
        assert read.parts[0].content == "Drink tea"
        with pytest.raises(InvalidToolArguments):
            await running.call("shop__query", b'{"sql":["DROP TABLE tea"]}')


async def test_the_tools_are_those_of_the_page(gateway, documented):
    async with gateway(documented) as running:
        offered = {name.partition("__")[2] for name in running.names()}
    cells = re.findall(r"^\| ([^|]*) \|", PAGE, re.MULTILINE)
    assert offered == {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)}


async def test_what_leads_outside_is_refused(gateway, documented, tmp_path):
    for folder in ("project", "manual"):
        (tmp_path / folder / "out").symlink_to(tmp_path)
        (tmp_path / folder / "link.md").symlink_to(tmp_path / "secret.md")
        os.mkfifo(tmp_path / folder / "pipe.md")
    (tmp_path / "secret.md").write_text("a crate of gold")
    refused = {
        "workspace__read_file": [{"path": path} for path in PATHS],
        "workspace__read_lines": [{"path": path} for path in PATHS],
        "workspace__search_text": [{"text": "gold", "path": "out"}, {"text": "gold", "path": "../"}],
        "workspace__write_file": [{"path": path, "content": "x", "overwrite": True} for path in PATHS],
        "workspace__edit_file": [{"path": path, "old": "gold", "new": "x"} for path in PATHS],
        "workspace__move_file": [{"source": path, "destination": "mine"} for path in ("out/secret.md", "../secret.md")],
        "workspace__delete_file": [{"path": path} for path in ("out/secret.md", "../secret.md", "..", ".", "")],
        "workspace__create_directory": [{"path": path} for path in ("out/new", "../new", "/..", "a\0b")],
        "shop__query": [
            {"sql": "DELETE FROM tea"},
            {"sql": f"ATTACH '{tmp_path}/new.db' AS new"},
            {"sql": f"VACUUM INTO '{tmp_path}/new.db'"},
            {"sql": "PRAGMA journal_mode = WAL"},
            {"sql": "SELECT load_extension('x')"},
        ],
        "manual__get_document": [{"document": path} for path in PATHS],
    }
    before = sorted(tmp_path.rglob("*")), (tmp_path / "shop.db").read_bytes()
    async with gateway(documented) as running:
        for tool, calls in refused.items():
            for arguments in calls:
                (*_, result) = await running.call(tool, json.dumps(arguments).encode(), seconds=10)
                assert result.is_error and b"gold" not in result.content, (tool, arguments, result)
        assert facts(await running.call("manual__search", b'{"query":"gold"}'))["results"] == []
    assert (sorted(tmp_path.rglob("*")), (tmp_path / "shop.db").read_bytes()) == before
    assert (tmp_path / "secret.md").read_text() == "a crate of gold"


async def test_a_query_that_cannot_be_stopped_ends_its_server_which_comes_back(gateway, documented):
    shop = documented["shop"]
    options = [shop["args"][2], "--timeout", "0.1"]
    here = f"from narthex_mcp import sqlite; sqlite.GRACE = 0.1; sqlite.main({options})"
    endless = (
        "SELECT instr(x, y) + instr(x, y || 'c') FROM (SELECT replace(hex(zeroblob(500000)), '00', 'a') AS x, "
        "replace(hex(zeroblob(250000)), '00', 'a') || 'b' AS y)"
    )
    async with gateway({"shop": {**shop, "args": ["-c", here]}}) as running:
        with pytest.raises(Unavailable, match="exited with status 70"):
            await running.call("shop__query", json.dumps({"sql": endless}).encode())
        await running.until_ready("shop")
        assert facts(await running.call("shop__query", b'{"sql":"SELECT 1"}'))["rows"] == [[1]]


async def test_a_client_of_narthex_reaches_them(documented, tmp_path):
    config = tmp_path / "mcp-config.json"
    config.write_text(json.dumps({"mcpServers": documented}))
    command = ["-m", "narthex.cli.main", "mcp", "--mcp-config", str(config)]
    program = StdioServerParameters(command=sys.executable, args=command, env=dict(os.environ))
    async with Client(program) as client, asyncio.timeout(60):
        found = await client.call_tool("manual__search", {"query": "crate"})
        assert found.structured_content["results"][0]["snippet"].endswith("Unpack the crate on level ground.")
        rows = await client.call_tool("shop__query", {"sql": "SELECT sum(grams) AS grams FROM tea"})
        assert rows.structured_content == {"columns": ["grams"], "rows": [[50]], "truncated": False}
        refused = await client.call_tool("workspace__read_file", {"path": "../shop.db"})
        assert refused.is_error and "outside the workspace" in refused.content[0].text

"""Callers who try to get around a policy, over gRPC and over MCP; behind it are servers that refuse next to nothing."""

import json
import sqlite3
import sys
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from mcp.shared.exceptions import MCPError

from tests.e2e.policed import policed

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVERS = Path(__file__).parent / "upstreams" / "servers"
POLICY = """
[[rules]]
name = "who may do anything"
effect = "allow"
keys = ["bob"]

[[rules]]
name = "files in their folder"
effect = "allow"
servers = ["gullible"]
tools = ["read"]
arguments = {"/path" = {paths_under = {roots = ["%(root)s/files"], relative_to = "%(root)s/files"}}}

[[rules]]
name = "no more of the workspace"
effect = "allow"
tools = ["files__read_file"]
arguments = {"/path" = {paths_under = {roots = ["%(root)s/files"], relative_to = "%(root)s"}}}

[[rules]]
name = "questions to the shop"
effect = "allow"
tools = ["gullible__query"]
arguments = {"/sql" = {sql = {dialect = "sqlite", allow = ["select"]}}}

[[rules]]
name = "two hosts"
effect = "allow"
tools = ["gullible__fetch"]
arguments = {"/url" = {hosts = ["example.com:443", "*.m\u00fcnchen.de"]}}

[[rules]]
name = "nothing deep"
effect = "deny"
tools = ["gullible__echo"]
arguments = {"/secret" = {absent = false}}

[[rules]]
name = "anything else"
effect = "allow"
tools = ["gullible__echo"]

[[rules]]
name = "this one is under the counter"
effect = "deny"
resources = ["demo://docs/items/secret"]

[[rules]]
name = "items"
effect = "allow"
servers = ["docs"]
resources = ["demo://docs/items/*"]
"""

PATHS = (
    "../outside.txt",
    "./../files/../outside.txt",
    "new/../../outside.txt",
    "%(root)s/outside.txt",
    "//etc/passwd",
    "link.txt",
    "folder/outside.txt",
    "folder/../outside.txt",
    "chain.txt",
    "%%2e%%2e/outside.txt",
    "%%2e%%2e%%2foutside.txt",
    "..%%2foutside.txt",
    "%%252e%%252e/outside.txt",
    "%%c0%%ae%%c0%%ae/outside.txt",
    "%%2fetc%%2fpasswd",
    "~/outside.txt",
    "$HOME/.profile",
    "%%7eroot",
    "%%24HOME",
    "..\\outside.txt",
    "\uff0e\uff0e\uff0foutside.txt",
    "note.txt\0.png",
    "note.txt%%00",
    "file://%(root)s/outside.txt",
    "/proc/self/cwd/outside.txt",
    "/dev/stdin",
    "",
)
STATEMENTS = (
    "delete from stock",
    "select 1; delete from stock",
    "select 1;;/**/;delete/**/from/**/stock",
    "select 1 -- \n; delete from stock",
    "/* select 1 */ delete from stock",
    "/* /* */ delete from stock -- */",
    "with new as (select 'x' as name) insert into stock select name from new",
    "insert into stock values ('x') returning name",
    "replace into stock values ('x')",
    "create table more as select * from stock",
    "pragma writable_schema = on",
    "pragma user_version",
    "attach database '%(root)s/made.sqlite' as made",
    "attach '%(root)s/made.sqlite' as made; create table made.t (a)",
    "vacuum into '%(root)s/made.sqlite'",
    "explain delete from stock",
    "select load_extension('evil')",
    "begin; delete from stock; commit",
    "select 1\0; delete from stock",
    "select ';'';'; delete from stock --'",
    'select "a;" ; delete from stock',
    "select [a;] from stock; delete from stock",
    "",
)
URLS = (
    "http://example.com",
    "https://example.com@evil.net",
    "https://example.com:443@evil.net",
    "https://user@example.com",
    "https://evil.net/?https://example.com",
    "https://evil.net#@example.com",
    "https://evil.net\\@example.com",
    "https://example.com\\.evil.net",
    "https://example.com.evil.net",
    "https://example.com:444",
    "https://ex\u0430mple.com",
    "https://example.com%%2eevil.net",
    "https://[::ffff:127.0.0.1]",
    "https://[::1]",
    "https://2130706433",
    "https://0x7f.1",
    "https://m\u00fcnchen.de",
    "https://a.munchen.de",
    "file:///etc/passwd",
    "//example.com",
    "javascript:alert(1)//example.com",
)
URIS = (
    "demo://same",
    "demo://docs/one",
    "demo://docs/items/secret",
    "demo://docs/items/%%73ecret",
    "demo://docs/items/secret#top",
    "demo://docs/items//secret",
    "DEMO://DOCS/items/secret",
    "demo://docs/items/x/../secret",
    "demo://docs/items/%%2e%%2e/one",
    "demo://docs/items/..;x/one",
    "demo://docs/items/%%252e%%252e/one",
    "docs+demo://docs/items/secret",
    "DOCS+demo://docs/items/secret",
    "docs+demo://docs/one",
    "secret://docs/x",
)
ALLOWED = (
    ("read", {"path": "note.txt"}),
    ("read", {"path": "sub/../note.txt"}),
    ("query", {"sql": "select name /* all; */ from stock where name <> 'delete from stock; --'"}),
    ("query", {"sql": "with all_of_it as (select * from stock) select count(*) from all_of_it;"}),
    ("fetch", {"url": "https://example.com/a?b=@evil.net"}),
    ("fetch", {"url": "HTTPS://EXAMPLE.com.:443/"}),
    ("fetch", {"url": "https://www.m\u00fcnchen.de"}),
    ("fetch", {"url": "https://www.xn--mnchen-3ya.de"}),
    ("echo", {"anything": [1, None]}),
)
NAMES = (
    "gullible__Read",
    "gullible__READ",
    "GULLIBLE__read",
    "gullible__re\u0430d",
    "gullible__re_d",
    "gullible__read_file",
    "gullible__files__read_file",
    "gullible::files__read_file",
    "gullible__read ",
    " gullible__read",
    "gullible__read\u200b",
    "gullible__read\0",
    "gull\u0456ble__read",
    "gullible\uff3f\uff3fread",
    "gullible__*",
    "gullible__",
    "__read",
    "read",
    "files__read",
    "files__gullible__read",
    "gullible/read",
    "../gullible__read",
    "",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with files, links out of it and a database."""
    root = tmp_path_factory.mktemp("attacked").resolve()
    (root / "files" / "sub").mkdir(parents=True)
    (root / "elsewhere" / "deep").mkdir(parents=True)
    (root / "files" / "note.txt").write_text("as agreed")
    for secret in (root / "outside.txt", root / "elsewhere" / "outside.txt"):
        secret.write_text("secret")
    (root / "files" / "link.txt").symlink_to("../outside.txt")
    (root / "files" / "chain.txt").symlink_to("link.txt")
    (root / "files" / "folder").symlink_to(root / "elsewhere" / "deep")
    with sqlite3.connect(root / "shop.sqlite") as database:
        database.executescript("create table stock (name text); insert into stock values ('tea');")
    database.close()
    return root


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(root):
    servers = {
        "gullible": {"command": sys.executable, "args": [str(SERVERS / "gullible.py"), str(root)]},
        "files": {"command": sys.executable, "args": ["-m", "narthex_mcp.workspace", str(root)]},
        "docs": {"command": sys.executable, "args": [str(SERVERS / "library.py"), "2025-11-25", "docs"]},
    }
    async with policed(root, servers, POLICY % {"root": root}, {"gullible__read", "files__read_file"}) as running:
        yield running


def heard(root: Path) -> list[list]:
    """The calls that have reached the server which does everything."""
    log = root / "gullible.log"
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def attacks(root: Path) -> list[tuple[str, dict[str, str]]]:
    return [
        *(("read", {"path": path % {"root": root}}) for path in PATHS),
        *(("query", {"sql": text % {"root": root}}) for text in STATEMENTS),
        *(("fetch", {"url": url % ()}) for url in URLS),
    ]


async def test_what_is_within_the_rules_passes(stack):
    before = len(heard(stack.root))
    async with stack.stub() as stub:
        for name, arguments in ALLOWED:
            end = (await stack.call(stub, "eve", f"gullible__{name}", **arguments))[-1].result
            assert not end.is_error, (name, arguments, end.content)
    async with stack.client("eve", "auto") as client:
        for name, arguments in ALLOWED:
            assert not (await client.call_tool(f"gullible__{name}", arguments)).is_error
    assert heard(stack.root)[before:] == [list(call) for call in ALLOWED] * 2


async def test_without_the_rules_they_would_have_got_through(stack):
    paths = ("../outside.txt", "link.txt", "folder/../outside.txt", "%2e%2e/outside.txt", "%252e%252e%252foutside.txt")
    async with stack.stub() as stub:
        for path in paths:
            assert b"secret" in (await stack.call(stub, "bob", "gullible__read", path=path))[-1].result.content, path
        for text in ("/* select 1 */ delete from stock where 1 = 2", "pragma user_version", "select 1; select 2"):
            assert b"done" in (await stack.call(stub, "bob", "gullible__query", sql=text))[-1].result.content, text


async def test_arguments_that_lead_elsewhere_are_refused_over_grpc(stack):
    before = heard(stack.root)
    async with stack.stub() as stub:
        for name, arguments in attacks(stack.root):
            code, reason, metadata, _ = await stack.refused(stub, "eve", f"gullible__{name}", **arguments)
            told = (code, reason, metadata)
            assert told == (grpc.StatusCode.PERMISSION_DENIED, "POLICY_DENIED", {"rule": "default"}), arguments
    assert heard(stack.root) == before and not (stack.root / "made.sqlite").exists()


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_arguments_that_lead_elsewhere_are_refused_over_mcp(stack, mode):
    before = heard(stack.root)
    async with stack.client("eve", mode) as client:
        for name, arguments in attacks(stack.root):
            with pytest.raises(MCPError, match="no rule of the policy allows this call with these arguments"):
                await client.call_tool(f"gullible__{name}", arguments)
    assert heard(stack.root) == before and not (stack.root / "made.sqlite").exists()


async def test_places_that_hold_something_else_are_no_grant(stack):
    before = heard(stack.root)
    odd = (
        {},
        {"path": None},
        {"path": ["note.txt"]},
        {"path": {"path": "note.txt"}},
        {"Path": "note.txt"},
        {"path": 1},
    )
    async with stack.stub() as stub:
        for arguments in odd:
            assert (await stack.refused(stub, "ann", "gullible__read", **arguments))[1] == "POLICY_DENIED"
    assert heard(stack.root) == before


async def test_of_a_name_that_stands_twice_the_server_gets_the_value_that_was_judged(stack):
    raw = b'{"path":"../outside.txt","path":"note.txt"}'
    async with stack.stub() as stub:
        assert "as agreed" in str((await stack.call_raw(stub, "ann", "gullible__read", raw))[-1])
    assert heard(stack.root)[-1] == ["read", {"path": "note.txt"}]


async def test_names_that_look_like_others_are_none(stack):
    before = heard(stack.root)
    async with stack.stub() as stub, stack.client("ann", "auto") as client:
        allowed = {"gullible__read", "gullible__query", "gullible__fetch", "gullible__echo", "files__read_file"}
        assert set(await stack.names(stub, "ann")) == allowed
        assert {tool.name for tool in (await client.list_tools()).tools} == allowed
        for name in NAMES:
            code, _, _, _ = await stack.refused(stub, "ann", name, path="note.txt")
            assert code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT), name
            with pytest.raises(MCPError):
                await client.call_tool(name, {"path": "note.txt"})
        for alias in ("gullible::read", "gullible.read"):
            assert (await stack.refused(stub, "ann", alias, path="../outside.txt"))[1] == "POLICY_DENIED"
        end = (await stack.call(stub, "ann", "files__read_file", path="files/note.txt"))[-1].result
        assert b"as agreed" in end.content  # the workspace's, whoever else lists a tool of this name
    assert heard(stack.root) == before


async def test_a_rule_can_narrow_what_a_server_would_give(stack):
    async with stack.stub() as stub:
        for path in ("files/../outside.txt", "elsewhere/outside.txt", "outside.txt", "files/link.txt"):
            assert (await stack.refused(stub, "ann", "files__read_file", path=path))[1] == "POLICY_DENIED"
            assert b"secret" in (await stack.call(stub, "bob", "files__read_file", path=path))[-1].result.content


async def test_large_and_deep_arguments_are_refused_before_anybody_reads_them(stack):
    before = heard(stack.root)
    deep = b'{"a":' * 101 + b"1" + b"}" * 101
    refusals = {
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000: grpc.StatusCode.INVALID_ARGUMENT,
        deep: grpc.StatusCode.INVALID_ARGUMENT,
        b'{"a":"' + b"x" * 9 * 2**20 + b'"}': grpc.StatusCode.INVALID_ARGUMENT,
        b'{"a":"' + b"x" * 17 * 2**20 + b'"}': grpc.StatusCode.RESOURCE_EXHAUSTED,
        b'{"secret":1}': grpc.StatusCode.PERMISSION_DENIED,
        b'{"s\\u0065cret":null}': grpc.StatusCode.PERMISSION_DENIED,
        b'{"secret":{"a":[[[[[[[[[[1]]]]]]]]]]}}': grpc.StatusCode.PERMISSION_DENIED,
        b'[{"secret":1}]': grpc.StatusCode.INVALID_ARGUMENT,
        b'{"a":1e999}': grpc.StatusCode.INVALID_ARGUMENT,
        b'{"a":NaN}': grpc.StatusCode.INVALID_ARGUMENT,
    }
    async with stack.stub() as stub:
        for raw, code in refusals.items():
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stack.call_raw(stub, "ann", "gullible__echo", raw)
            assert failed.value.code() is code, raw[:40]
        wide = json.dumps({"path": ["note.txt"] * 100_000}).encode()
        with pytest.raises(grpc.aio.AioRpcError, match="no rule"):
            await stack.call_raw(stub, "ann", "gullible__read", wide)
    async with stack.client("ann", "auto") as client:
        with pytest.raises(MCPError, match="nested"):
            await client.call_tool("gullible__echo", json.loads(deep))
    assert heard(stack.root) == before


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_resources_that_are_not_allowed_do_not_exist(stack, mode):
    async with stack.client("bob", mode) as client:
        assert {"demo://same", "demo://docs/one"} <= {str(one.uri) for one in (await client.list_resources()).resources}
        for uri in ("demo://docs/one", "demo://docs/items/secret"):
            assert (await client.read_resource(uri)).contents[0].text == f"docs has {uri}"
    async with stack.client("ann", mode) as client:
        assert not (await client.list_resources()).resources
        templates = (await client.list_resource_templates()).resource_templates
        assert [template.uri_template for template in templates] == ["demo://docs/items/{id}"]
        for uri in ("demo://docs/items/1", "docs+demo://docs/items/1", "demo://docs/items/a%20b"):
            assert (await client.read_resource(uri)).contents[0].text.startswith("docs has demo://docs/items/")
        for uri in URIS:
            with pytest.raises(MCPError, match=r"(?i)not found|no resource|no upstream"):
                await client.read_resource(uri % ())

import hashlib
import os
import sqlite3
import threading
import time
from contextlib import suppress

import pytest
from mcp.shared.exceptions import MCPError
from narthex_mcp import sqlite
from narthex_mcp.sqlite import Database, Limits, main
from narthex_mcp.toolbox import Refused


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "shop 1.db"
    with sqlite3.connect(file) as made:
        made.executescript(
            """
            CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT 'x', data BLOB);
            CREATE TABLE purchase (
                id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customer (id), price REAL, note TEXT
            );
            CREATE INDEX purchase_price ON purchase (price);
            CREATE VIEW dear AS SELECT * FROM purchase WHERE price > 10;
            CREATE VIRTUAL TABLE notes USING fts5 (body);
            INSERT INTO notes VALUES ('a quick fox'), ('a slow dog');
            INSERT INTO customer VALUES (1, 'Ada', x'00ff'), (9007199254740993, 'Grace', NULL);
            INSERT INTO purchase VALUES (1, 1, 9.5, 'it''s'), (2, 1, 20, NULL), (3, 9007199254740993, 9e999, 'x');
            """
        )
    made.close()
    return file


@pytest.fixture
def database(file):
    return Database(file, Limits())


def digest(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


async def test_a_database_is_asked_over_stdio(file, running):
    async with running("sqlite", str(file)) as tester:
        assert list(tester.tools) == ["query", "list_tables", "describe_table"]
        assert all(tool.annotations.read_only_hint for tool in tester.tools.values())
        tables = (await tester.facts("list_tables"))["tables"]
        assert {"name": "customer", "kind": "table"} in tables and {"name": "dear", "kind": "view"} in tables
        found = await tester.facts("query", sql="SELECT id, name, data FROM customer ORDER BY id")
        assert found == {
            "columns": ["id", "name", "data"],
            "rows": [[1, "Ada", {"base64": "AP8="}], [9007199254740993, "Grace", None]],
            "truncated": False,
        }
        for parameters in (["Ada"], {"who": "Ada"}):
            sql = "SELECT id FROM customer WHERE name = " + ("?" if isinstance(parameters, list) else ":who")
            assert (await tester.facts("query", sql=sql, parameters=parameters))["rows"] == [[1]]
        described = await tester.facts("describe_table", table="PURCHASE")
        assert described["name"] == "purchase" and described["indexes"] == [{"name": "purchase_price", "unique": False}]
        assert described["foreign_keys"] == [{"column": "customer", "table": "customer", "references": "id"}]
        assert [column["name"] for column in described["columns"]] == ["id", "customer", "price", "note"]
        assert "list_tables" in await tester.refusal("describe_table", table="nothing")
        (resource,) = (await tester.client.list_resources()).resources
        (schema,) = (await tester.client.read_resource(str(resource.uri))).contents
        assert "CREATE VIEW dear" in schema.text
        with pytest.raises(MCPError):
            await tester.client.read_resource("sqlite:///other")


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT count(*), sum(id) FROM purchase WHERE price > 5 AND note IS NOT NULL", [[2, 4]]),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n",
            [[1], [2], [3]],
        ),
        ("SELECT body FROM notes WHERE notes MATCH 'fox'", [["a quick fox"]]),
        ("VALUES (1, 'a')", [[1, "a"]]),
        ("SELECT max(price) FROM dear", [["inf"]]),
        ("SELECT json_extract('{\"a\":[1,2]}', '$.a[1]')", [[2]]),
        ("  -- a comment\n SELECT 1 ; ", [[1]]),
    ],
)
def test_what_a_select_can_do(database, sql, rows):
    assert database.query(sql, None, 100).facts["rows"] == rows


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO customer (name) VALUES ('x')",
        "UPDATE customer SET name = 'x'",
        "DELETE FROM customer",
        "REPLACE INTO customer VALUES (1, 'x', NULL)",
        "INSERT INTO customer (name) VALUES ('x') RETURNING id",
        "WITH x AS (SELECT 1) INSERT INTO customer (name) SELECT 'x'",
        "CREATE TABLE x (a)",
        "CREATE TEMP TABLE x (a)",
        "CREATE TABLE x AS SELECT 1",
        "CREATE VIRTUAL TABLE x USING fts5 (a)",
        "CREATE TRIGGER t AFTER INSERT ON customer BEGIN SELECT 1; END",
        "CREATE INDEX i ON customer (name)",
        "DROP TABLE customer",
        "ALTER TABLE customer ADD COLUMN x",
        "REINDEX",
        "ANALYZE",
        "VACUUM",
        "VACUUM INTO '{folder}/copy.db'",
        "ATTACH DATABASE '{folder}/other.db' AS other",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "BEGIN IMMEDIATE",
        "COMMIT",
        "SAVEPOINT x",
        "UPDATE sqlite_master SET sql = ''",
        "UPDATE sqlite_schema SET sql = ''",
        "PRAGMA query_only = OFF",
        "PRAGMA writable_schema = ON",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA user_version = 7",
        "PRAGMA hard_heap_limit = 0",
        "PRAGMA temp_store_directory = '{folder}'",
        "PRAGMA database_list",
        "SELECT * FROM pragma_database_list",
        "SELECT load_extension('{folder}/evil.so')",
        "SELECT LOAD_EXTENSION('x')",
        "SELECT fts3_tokenizer('simple')",
        "SELECT writefile('{folder}/x', 'y')",
        "SELECT readfile('/etc/passwd')",
        "SELECT 1; DELETE FROM customer",
        "SELECT 1; SELECT 2",
        "SELECT * FROM 'file:/etc/passwd'",
        "INSERT INTO notes (notes) VALUES ('delete-all')",
        "EXPLAIN DELETE FROM customer",
        "",
        "-- nothing",
        "\0",
        "SELECT 1 \0; DELETE FROM customer",
        "nonsense",
    ],
)
def test_nothing_else_is_run(file, sql):
    before = digest(file.parent)
    database = Database(file, Limits())
    with pytest.raises(Refused):
        database.query(sql.replace("{folder}", str(file.parent)), None, 100)
    assert digest(file.parent) == before


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "SELECT count(*) FROM notes a, notes b, notes c, notes d, purchase, purchase p, customer, customer k, "
        + ", ".join(f"purchase x{n}" for n in range(20)),
    ],
)
def test_endless_queries_end(file, sql):
    database = Database(file, Limits(seconds=0.3))
    began = time.monotonic()
    with pytest.raises(Refused, match="took longer"):
        database.query(sql, None, 100)
    assert time.monotonic() - began < 3


STUBBORN = (
    "SELECT instr(x, y) + instr(x, y || 'c') FROM (SELECT replace(hex(zeroblob(200000)), '00', 'a') AS x, "
    "replace(hex(zeroblob(100000)), '00', 'a') || 'b' AS y)"
)
"""Two calls of a function in which SQLite does not look at the clock."""


def test_a_query_that_cannot_be_stopped_is_told(file, monkeypatch):
    monkeypatch.setattr(sqlite, "GRACE", 0.0)
    stuck = threading.Event()
    database = Database(file, Limits(seconds=0.05), stuck=stuck.set)
    database.query("SELECT 1", None, 1)
    with suppress(Refused):
        database.query(STUBBORN, None, 1)
    assert stuck.is_set()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT zeroblob(1000000000)",
        "SELECT printf('%.*c', 1000000000, 'x')",
        "SELECT hex(randomblob(900000))",
        "SELECT group_concat(a.body || hex(zeroblob(400000))) FROM notes a, notes b, notes c",
        "SELECT " + "(" * 2000 + "1" + ")" * 2000,
        "SELECT " + "+".join("1" for _ in range(5000)),
        "SELECT 1 --" + "x" * 100_000,
        "SELECT 'x' LIKE '" + "%a" * 1000 + "'",
    ],
)
def test_nothing_gets_too_large(database, sql):
    with pytest.raises(Refused):
        database.query(sql, None, 100)


def test_answers_have_so_many_rows_and_bytes(file, database):
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    found = database.query(many, None, 7).facts
    assert len(found["rows"]) == 7 and found["truncated"]
    assert len(database.query(many, None, 10**9).facts["rows"]) == 1000
    small = Database(file, Limits(bytes=100_000))
    found = small.query("WITH n(i) AS (VALUES (1), (2), (3)) SELECT hex(zeroblob(20000)) FROM n", None, 9).facts
    assert len(found["rows"]) == 2 and found["truncated"]


@pytest.mark.parametrize("parameters", [[[1]], [{"a": 1}], [1, 2], [], {"other": 1}, [2**70]])
def test_parameters_that_do_not_fit_are_told(database, parameters):
    with pytest.raises(Refused):
        database.query("SELECT ?" if isinstance(parameters, list) else "SELECT :who", parameters, 1)


def test_what_others_write_is_seen(file, database):
    with sqlite3.connect(file) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("INSERT INTO customer (id, name) VALUES (7, 'Joan')")
        writer.commit()
        assert database.query("SELECT name FROM customer WHERE id = 7", None, 1).facts["rows"] == [["Joan"]]
    writer.close()


def test_a_file_that_nobody_changes_can_be_read_without_locks(file):
    assert Database(file, Limits(), immutable=True).query("SELECT 1", None, 1).facts["rows"] == [[1]]


def test_a_pipe_is_not_opened(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.db")
    assert main([str(tmp_path / "pipe.db")]) == 2
    assert "not a regular file" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"no database, but a text that is long enough to be told from one" * 20])
def test_what_is_no_database_is_a_usage_error(tmp_path, capsys, content):
    file = tmp_path / "x.db"
    if content is not None:
        file.write_bytes(content)
    assert main([str(file)]) == 2
    assert "cannot be opened" in capsys.readouterr().err
    assert main([str(file), "--max-rows", "0"]) == 2

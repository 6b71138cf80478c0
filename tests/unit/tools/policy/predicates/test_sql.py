"""Kinds of statements, and how people try to hide one."""

import pytest
from narthex_server.tools.policy.predicates.sql import MAX_CHARACTERS, judge, kinds_of


@pytest.mark.parametrize(
    ("dialect", "text", "kinds"),
    [
        ("sqlite", "SELECT a, count(*) FROM t WHERE b = ';DROP TABLE t' GROUP BY a", {"select"}),
        ("sqlite", "select 1; select 2;", {"select"}),
        ("sqlite", "/* why */ select 1 -- because", {"select"}),
        ("sqlite", "(select 1) union all select 2", {"select"}),
        ("sqlite", "values (1)", {"select"}),
        ("sqlite", "insert into t select * from u", {"insert", "select"}),
        ("sqlite", "pragma table_info(t)", {"pragma"}),
        ("sqlite", "attach database '/tmp/x' as y", {"attach"}),
        ("sqlite", "begin; delete from t; commit", {"transaction", "delete"}),
        ("sqlite", "create table t as select 1", {"ddl", "select"}),
        ("postgres", "with gone as (delete from t returning *) select * from gone", {"select", "delete"}),
        ("postgres", "with new as (insert into t values (1) returning a) select 1", {"select", "insert"}),
        ("postgres", "select * into copy from t", {"select", "ddl"}),
        ("postgres", "select * from t for update", {"select", "update"}),
        ("postgres", "merge into a using b on a.x = b.x when matched then delete", {"merge"}),
        ("postgres", "truncate t", {"ddl"}),
        ("postgres", "copy t to '/tmp/x'", {"copy"}),
        ("postgres", "grant all on t to u", {"grant"}),
        ("postgres", "select $$a; drop table t$$", {"select"}),
        ("postgres", "select '\\'; drop table t; --'", {"select", "ddl"}),
        ("mysql", "select '\\'; drop table t; -- '", {"select"}),
        ("mysql", "show tables", {"describe"}),
        ("tsql", "exec xp_cmdshell 'dir'", {"execute"}),
    ],
)
def test_a_text_is_of_every_kind_that_it_holds(dialect, text, kinds):
    assert kinds_of(text, dialect) == kinds


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        ("sqlite", ""),
        ("sqlite", ";;"),
        ("sqlite", "-- nothing"),
        ("sqlite", "selec 1"),
        ("sqlite", "reindex t"),
        ("sqlite", "vacuum into '/tmp/x'"),
        ("sqlite", "explain delete from t"),
        ("sqlite", "select load_extension('x')"),
        ("sqlite", "select writefile('x', 'y')"),
        ("sqlite", "select 1\0; drop table t"),
        ("sqlite", "select\u00a01"),
        ("sqlite", "\u0455elect 1"),
        ("sqlite", "/* /* */ select 1"),
        ("postgres", "/* /* */ drop table t; -- */ */ select 1"),
        ("postgres", "do $$ begin delete from t; end $$"),
        ("postgres", "call f()"),
        ("postgres", "set role admin"),
        ("postgres", "prepare p as delete from t"),
        ("postgres", "explain analyze delete from t"),
        ("postgres", "lock table t"),
        ("postgres", "select pg_read_file('/etc/passwd')"),
        ("postgres", "select * from dblink('x', 'delete from t')"),
        ("postgres", "select lo_import('/etc/passwd')"),
        ("postgres", "select nextval('s')"),
        ("mysql", "select 1 /*!50000 ; drop table t */"),
        ("mysql", "select 1 /*M! ; drop table t */"),
        ("mysql", "select 1 --1 ; drop table t"),
        ("mysql", "select * from t into outfile '/tmp/x'"),
        ("mysql", "handler t open"),
        ("duckdb", "select * from read_csv('/etc/passwd')"),
        ("sqlite", "select " + "(" * 60 + "1" + ")" * 60),
        ("sqlite", "select '" + "x" * MAX_CHARACTERS + "'"),
    ],
)
def test_what_cannot_be_understood_in_full_is_of_no_kind(dialect, text):
    assert kinds_of(text, dialect) is None


def test_only_the_allowed_kinds_hold():
    judged = judge({"dialect": "sqlite", "allow": ["select", "describe"]})
    assert judged("select 1", "") is True
    assert judged("select 1; delete from t", "") is False
    assert judged("nonsense (", "") is None and judged(7, "") is None and judged(["select 1"], "") is None


def test_functions_that_the_parser_does_not_know_are_named():
    judged = judge({"dialect": "sqlite", "allow": ["select"], "functions": ["JulianDay"]})
    assert judged("select julianday(a) from t", "") is True
    assert judged("select julianday(a), randomblob(9) from t", "") is None


def test_what_callers_write_is_not_logged(caplog):
    with caplog.at_level("DEBUG"):
        kinds_of("explain delete from t where password = 'hunter2'", "sqlite")
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    "value",
    [
        ["select"],
        {"allow": ["select"]},
        {"dialect": "sqlite"},
        {"dialect": "", "allow": ["select"]},
        {"dialect": "sqlite", "allow": []},
        {"dialect": "sqlite", "allow": ["drop"]},
        {"dialect": "oracle9", "allow": ["select"]},
        {"dialect": "sqlite", "allow": ["select"], "functions": "f"},
        {"dialect": "sqlite", "allow": ["select"], "more": 1},
    ],
)
def test_settings_that_mean_nothing_are_refused(value):
    with pytest.raises(ValueError):
        judge(value)

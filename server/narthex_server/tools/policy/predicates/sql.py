"""`sql = {dialect = "sqlite", allow = ["select"]}`: a text whose statements, all of them, are of these kinds.

A statement is of every kind that any part of it is: a SELECT whose WITH deletes is of `select` and `delete`. Functions
that the parser does not know may do anything: they have to be named. What may be done to which table is not judged.
"""

import logging
import re
from collections.abc import Iterator

import sqlglot
from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import ErrorLevel, SqlglotError

from narthex_server.tools.policy.predicate import Judge
from narthex_server.tools.policy.verdict import Verdict

SLOW = True

MAX_CHARACTERS = 16 * 1024
MAX_DEPTH = 40

logging.getLogger("sqlglot").setLevel(logging.CRITICAL)  # it repeats what callers wrote

_KINDS: dict[str, tuple[type[exp.Expr], ...]] = {
    "select": (exp.Select, exp.SetOperation, exp.Values, exp.Subquery),
    "insert": (exp.Insert,),
    "update": (exp.Update,),
    "delete": (exp.Delete,),
    "merge": (exp.Merge,),
    "ddl": (exp.Create, exp.Drop, exp.Alter, exp.TruncateTable, exp.Comment),
    "pragma": (exp.Pragma,),
    "attach": (exp.Attach, exp.Detach),
    "transaction": (exp.Transaction, exp.Commit, exp.Rollback),
    "describe": (exp.Describe, exp.Show),
    "set": (exp.Set, exp.Use),
    "copy": (exp.Copy, exp.LoadData, exp.Export),
    "grant": (exp.Grant, exp.Revoke),
    "analyze": (exp.Analyze,),
    "execute": (exp.Execute,),
}
_STATEMENTS = tuple(kind for kinds in _KINDS.values() for kind in kinds)
_WITHIN = (exp.Select, exp.SetOperation, exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.Alter)
_READS_FILES = (exp.ReadCSV, exp.ReadParquet)
_HARMLESS = (exp.Semicolon,)


def judge(value: object) -> Judge:
    dialect, allowed, functions = _settings(value)

    def judged(given: object, directory: str) -> Verdict:
        kinds = kinds_of(given, dialect, functions) if isinstance(given, str) else None
        return None if kinds is None else kinds <= allowed

    return judged


def kinds_of(text: str, dialect: str, functions: frozenset[str] = frozenset()) -> frozenset[str] | None:
    """The kinds of all statements in a text; None where it has none, or cannot be understood in full."""
    if len(text) > MAX_CHARACTERS or _is_ambiguous(text, dialect) or _depth(text) > MAX_DEPTH:
        return None
    try:
        statements = [one for one in sqlglot.parse(text, read=dialect, error_level=ErrorLevel.RAISE) if one]
        found = [_kinds(statement, functions) for statement in statements if not isinstance(statement, _HARMLESS)]
    except (SqlglotError, RecursionError, ValueError, AttributeError, TypeError, KeyError, IndexError):
        return None  # its parser has errors of its own for what it does not expect
    kinds = frozenset[str]()
    for one in found:
        if one is None:
            return None
        kinds |= one
    return kinds or None


def _kinds(statement: exp.Expr, functions: frozenset[str]) -> frozenset[str] | None:
    if not isinstance(statement, _STATEMENTS):
        return None
    kinds = {_kind(statement)}
    for node in statement.walk():
        if isinstance(node, exp.Command) or (_is_opaque(node) and _name(node) not in functions):
            return None
        kinds.update(_kinds_within(node))
    return frozenset(kinds)


def _kinds_within(node: exp.Expr) -> Iterator[str]:
    if isinstance(node, exp.Into):
        yield "ddl"
    elif isinstance(node, exp.Lock):
        yield "update"
    elif isinstance(node, _WITHIN):
        yield _kind(node)


def _kind(node: exp.Expr) -> str:
    return next(name for name, kinds in _KINDS.items() if isinstance(node, kinds))


def _is_opaque(node: exp.Expr) -> bool:
    return isinstance(node, (exp.Anonymous, exp.AnonymousAggFunc, *_READS_FILES))


def _name(node: exp.Expr) -> str:
    return str(node.sql_name() if isinstance(node, exp.Func) and not node.name else node.name).lower()


def _is_ambiguous(text: str, dialect: str) -> bool:
    """Whether servers may read it otherwise: comments that are run, or nest, and characters that end a text."""
    if any((ord(letter) < 32 or letter.isspace()) and letter not in " \t\n\r" for letter in text):
        return True
    if "/*!" in text or "/*M!" in text or re.search(r"/\*(?:(?!\*/).)*/\*", text, re.DOTALL):
        return True
    family = issubclass(type(Dialect.get_or_raise(dialect)), Dialect.get_or_raise("mysql").__class__)
    return family and re.search(r"--(?!\s|$)", text) is not None


def _depth(text: str) -> int:
    """How deep brackets nest, counting also those in texts."""
    depth = deepest = 0
    for letter in text:
        if letter == "(":
            depth += 1
            deepest = max(deepest, depth)
        elif letter == ")":
            depth = max(depth - 1, 0)
    return deepest


def _settings(value: object) -> tuple[str, frozenset[str], frozenset[str]]:
    if not isinstance(value, dict) or not {"dialect", "allow"} <= value.keys() <= {"dialect", "allow", "functions"}:
        raise ValueError("must be a table with dialect and allow, and functions where others than usual ones are used")
    dialect, allowed, functions = value["dialect"], value["allow"], value.get("functions", [])
    if not isinstance(dialect, str) or not dialect:
        raise ValueError("dialect must be a name, such as sqlite, postgres, mysql or duckdb")
    try:
        Dialect.get_or_raise(dialect)
    except ValueError:
        raise ValueError(f"dialect: {dialect[:50]!r} is not known") from None
    if not isinstance(allowed, list) or not allowed or not all(isinstance(kind, str) for kind in allowed):
        raise ValueError(f"allow must be a list of kinds: {', '.join(_KINDS)}")
    if unknown := [kind for kind in allowed if kind not in _KINDS]:
        raise ValueError(f"allow: there is no kind {unknown[0][:50]!r}; there are: {', '.join(_KINDS)}")
    if not isinstance(functions, list) or not all(isinstance(name, str) for name in functions):
        raise ValueError("functions must be a list of names")
    return dialect, frozenset(allowed), frozenset(name.lower() for name in functions)

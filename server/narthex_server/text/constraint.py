"""What a text has to look like, as a caller says it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from narthex_server.errors import InvalidRequest, Violation
from narthex_server.text import lark

DEEPEST = 200
"""Rules within rules of a caller's grammar: what goes wrong inside is told by way of all of them, again and again."""


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """A JSON value that fits a JSON Schema, which is JSON itself."""

    field: ClassVar[str] = "json_schema"

    rule: str

    def lark(self) -> str:
        """Errors: InvalidRequest for what is not a schema's JSON."""
        return f"start: {lark.json_value(read_schema(self.rule, f'constraint.{self.field}'))}"


@dataclass(frozen=True, slots=True)
class Regex:
    """A match of a regular expression, from its first character to its last."""

    field: ClassVar[str] = "regex"

    rule: str

    def lark(self) -> str:
        return f"start: {lark.pattern(self.rule)}"


@dataclass(frozen=True, slots=True)
class LarkGrammar:
    """A sentence of a grammar in Lark's notation, from its rule `start`."""

    field: ClassVar[str] = "lark"

    rule: str

    def lark(self) -> str:
        """Errors: InvalidRequest for directives to the library that reads the notation, and for very deep grammars."""
        if "%llguidance" in self.rule:
            refuse(f"constraint.{self.field}", "must be plain Lark, without %llguidance")
        if (deep := lark.depth(self.rule)) > DEEPEST:
            refuse(f"constraint.{self.field}", f"refers from rule to rule {deep} deep; at most {DEEPEST} are followed")
        return self.rule


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some strings."""

    field: ClassVar[str] = "choice"

    options: tuple[str, ...]

    def lark(self) -> str:
        """Errors: InvalidRequest where there is none, or an empty one."""
        if not self.options or not all(self.options):
            refuse(f"constraint.{self.field}.options", "must hold at least one string, none of them empty")
        return f"start: {' | '.join(lark.literal(option) for option in self.options)}"


Constraint = JsonSchema | Regex | LarkGrammar | Choice


def read_schema(text: str, field: str) -> Mapping[str, Any]:
    """A JSON Schema, `true` as the empty one. Errors: InvalidRequest that names `field`."""
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        text.encode()
    except ValueError as error:
        where = f" at line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        refuse(field, f"must be JSON in UTF-8; it is broken{where}")
    except RecursionError:
        refuse(field, "is nested too deeply")
    if value is True:
        return {}
    if not isinstance(value, dict):
        refuse(field, "must be a JSON Schema: an object")
    return value


def refuse(field: str, what: str) -> NoReturn:
    """Raise InvalidRequest for one field."""
    raise InvalidRequest(f"{field} {what}", reason="INVALID_CONSTRAINT", violations=[Violation(field, what)])


def _finite(text: str) -> float:
    return value if math.isfinite(value := float(text)) else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON that can be computed with")

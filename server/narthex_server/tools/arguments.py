"""Arguments of a call: parsed, bounded and held against the tool's JSON Schema before anything runs."""

import json
import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from narthex_server.errors import InvalidRequest, InvalidToolArguments, Violation
from narthex_server.tools.objects import kind_of, parse_object

MAX_VIOLATIONS = 16
MOST_SCHEMAS = 10_000

_log = logging.getLogger(__name__)


def parse_arguments(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw` (empty is {}), integers exact however large.

    Raises:
        InvalidToolArguments: not one JSON object, or beyond the limits of size and depth.
    """
    try:
        return parse_object(raw, "arguments")
    except InvalidRequest as error:
        raise InvalidToolArguments(error.message, violations=error.violations) from None


class ArgumentSchema:
    """A tool's schema, compiled once; draft by `$schema`, 2020-12 without one.

    A schema that is itself broken, or refers outside itself, cannot judge anything: the arguments then pass, and the
    tool judges them itself.
    """

    def __init__(self, schema: bytes, tool: str, side: Literal["input", "output"] = "input") -> None:
        self._tool = tool
        self._side = side
        self._validator = _compile(schema, tool, side)

    def check(self, arguments: dict[str, Any]) -> None:
        """Raises InvalidToolArguments that names every field at fault (the first 16) and why."""
        if violations := self.violations(arguments):
            summary = "; ".join(f"{v.field}: {v.description}" if v.field else v.description for v in violations)
            raise InvalidToolArguments(
                f"arguments do not fit the schema of tool {self._tool}: {summary}",
                metadata={"tool": self._tool},
                violations=violations,
            )

    def violations(self, value: Any) -> tuple[Violation, ...]:
        """Every field at fault, the first 16, and why."""
        if self._validator is None:
            return ()
        try:
            found = (v for error in self._validator.iter_errors(value) for v in _violations(error))
            return tuple(islice(found, MAX_VIOLATIONS))
        except Unresolvable as error:
            _log.warning("%s schema of tool %s refers to what it does not contain: %s", self._side, self._tool, error)
            self._validator = None
            return ()
        except RecursionError:
            return (Violation("", "arguments or their schema are nested too deeply"),)


class ArgumentSchemas:
    """The schemas of many tools, compiled when first asked for and again when they change."""

    def __init__(self, side: Literal["input", "output"] = "input") -> None:
        self._side: Literal["input", "output"] = side
        self._schemas: dict[tuple[str, str], tuple[bytes, ArgumentSchema]] = {}

    def of(self, tool: str, schema: bytes, server: str = "") -> ArgumentSchema:
        """`tool` is what errors call it; two `server`s may each have one of this name, for different callers."""
        known = self._schemas.get((server, tool))
        if known is None or known[0] != schema:
            if len(self._schemas) >= MOST_SCHEMAS:  # a server may name its tools anew all the time
                self._schemas.clear()
            known = self._schemas[server, tool] = schema, ArgumentSchema(schema, tool, self._side)
        return known[1]


def _compile(schema: bytes, tool: str, side: str) -> Validator | None:
    try:
        parsed = json.loads(schema) if schema else {}
        kind = validator_for(parsed, default=Draft202012Validator)
        kind.check_schema(parsed)
        return kind(parsed, registry=Registry())
    except (ValueError, SchemaError, Unresolvable, RecursionError) as error:
        _log.warning("%s schema of tool %s is not valid, nothing is held against it: %s", side, tool, error)
        return None


def _violations(error: ValidationError) -> Iterator[Violation]:
    path = _path(error)
    keyword: Any = error.validator_value
    match error.validator:
        case "required":
            # one error per missing name, and the name stands only in its message
            for name in (name for name in keyword if error.message.startswith(f"{name!r} is")):
                yield Violation(_join(path, name), "is required")
        case "additionalProperties" if keyword is False:
            known = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
            extra = [name for name in cast(dict[str, Any], error.instance) if name not in known]
            for name in extra or [""]:
                yield Violation(_join(path, name), f"is not known; known are: {', '.join(known) or 'none'}")
        case "type":
            wanted = keyword if isinstance(keyword, str) else " or ".join(keyword)
            yield Violation(path, f"must be {wanted}, not {kind_of(error.instance)}")
        case _:
            yield Violation(path, _short(error.message))


def _path(error: ValidationError) -> str:
    path = ""
    for step in error.absolute_path:
        path = f"{path}[{step}]" if isinstance(step, int) else _join(path, step)
    return path


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _short(message: str) -> str:
    # the message repeats the offending value, which may be megabytes
    return message if len(message) <= 300 else f"{message[:200]} … {message[-80:]}"


def _invalid(field: str, description: str) -> InvalidToolArguments:
    return InvalidToolArguments(description, violations=(Violation(field, description),))

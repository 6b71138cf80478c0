"""An OpenAPI document: read, bounded, validated, and its references."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal
from urllib.parse import unquote, urljoin, urlsplit

from openapi_pydantic.v3 import v3_0, v3_1
from pydantic import ValidationError

from narthex_server.errors import Unavailable
from narthex_server.tools.upstream.openapi import yaml_as_json
from narthex_server.tools.upstream.urls import origin

MOST_BYTES = 16 * 1024 * 1024
MOST_VALUES = 1_000_000
"""Objects, arrays and what is in them, each counted as often as YAML's aliases repeat it."""

MOST_LEVELS = 200
MOST_HOPS = 32
"""References that lead from one to the next."""

MOST_URL = 2000
MOST_ERRORS = 10_000

Kind = Literal["PathItem", "Parameter", "RequestBody"]
"""What a reference may be to, as OpenAPI calls it; one to a schema may be to anything."""

_VERSIONS = ("3.0.", "3.1.")


@dataclass(frozen=True, slots=True)
class Document:
    """A valid document of OpenAPI 3.0 or 3.1."""

    root: Mapping[str, Any]
    _checked: set[tuple[str, Kind]] = field(default_factory=set, repr=False, compare=False)

    @classmethod
    def parse(cls, data: bytes) -> "Document":
        """From JSON or YAML; raises Unavailable that says what is wrong, and where."""
        if len(data) > MOST_BYTES:
            raise _wrong(f"has more than {MOST_BYTES} bytes")
        root = _parsed(data)
        if not isinstance(root, dict):
            raise _wrong("is no object")
        version = str(root.get("openapi", ""))
        if not version.startswith(_VERSIONS):
            said = f"OpenAPI {version}" if version else "Swagger 2.0" if "swagger" in root else "of no version"
            raise _wrong(f"is {said[:40]}; 3.0 and 3.1 are understood")
        try:
            _models(version).OpenAPI.model_validate(root)
        except ValidationError as error:
            raise _wrong(f"is not valid{_first(error)}") from None
        return cls(root)

    @property
    def is_3_0(self) -> bool:
        return str(self.root["openapi"]).startswith("3.0.")

    def resolved(self, value: Any, kind: Kind) -> Any:
        """What a local reference leads to, or the value itself; raises Unavailable for one that leads to no `kind`."""
        ref = ""
        for _ in range(MOST_HOPS):
            if not isinstance(value, Mapping) or not isinstance(value.get("$ref"), str):
                if ref:
                    self._check(ref, value, kind)
                return value
            ref = value["$ref"]
            value = self.at(ref)
        raise _wrong("has references that lead in a circle")

    def _check(self, ref: str, value: Any, kind: Kind) -> None:
        """A reference may lead to anything, also to what is no part of OpenAPI and has not been checked yet."""
        if (ref, kind) in self._checked:
            return
        try:
            getattr(_models(str(self.root["openapi"])), kind).model_validate(value)
        except ValidationError as error:
            raise _wrong(f"refers to {ref[:200]}, which is no {kind}{_first(error)}") from None
        self._checked.add((ref, kind))

    def at(self, ref: str) -> Any:
        """What stands at `#/a/b`."""
        if not ref.startswith("#/"):
            raise _wrong(f"refers to another document, {ref[:200]}; bundle it into one")
        found: Any = self.root
        for step in ref[2:].split("/"):
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            match found:
                case Mapping() if name in found:
                    found = found[name]
                case list() if name.isdecimal() and int(name) < len(found):
                    found = found[int(name)]
                case _:
                    raise _wrong(f"refers to {ref[:200]}, which is not there")
        return found

    def base(self, place: str) -> str:
        """The URL of the first server, with its variables' defaults; `place` is where the document was found.

        Raises Unavailable where there is none, or one that whoever writes a document far away cannot choose.
        """
        servers = self.root.get("servers") or [{"url": "/"}]
        url = str(servers[0]["url"])[: MOST_URL + 1]
        for name, variable in (servers[0].get("variables") or {}).items():
            url = url.replace("{" + name + "}", str(variable.get("default", ""))[:MOST_URL])
            if len(url) > MOST_URL:
                break
        far = place.startswith(("http://", "https://"))
        try:
            found = urljoin(place, url) if far else url
            parts = urlsplit(found)
            whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            good = whole and not parts.query and not parts.fragment
            elsewhere = far and origin(found) != origin(place)
        except ValueError:
            good = False
        if not good or len(url) > MOST_URL:
            raise _wrong("names no server by a whole URL; give url")
        if elsewhere:
            raise _wrong(
                f"names a server on another origin than its own, {found[:200]}; if it is the right one, give url"
            )
        return found


def _parsed(data: bytes) -> Any:
    """From JSON, or YAML; raises Unavailable for a document that is neither, or would take long to look at."""
    try:
        root = json.loads(data)
    except (ValueError, RecursionError):
        try:
            root = yaml_as_json.load(data)
        except ValueError as error:
            raise _wrong(f"is neither JSON nor YAML: {str(error)[:200]}") from None
        _bounded(root)
        try:
            return json.loads(json.dumps(root))  # keys that are numbers, such as statuses, are texts in JSON
        except TypeError:
            raise _wrong("has values that JSON does not have") from None
    _bounded(root)
    return root


def _bounded(root: Any) -> None:
    """Raises Unavailable for a document that would take long to look at."""
    values, characters, levels = 0, 0, [iter([root])]
    while levels:
        value = next(levels[-1], _END)
        if value is _END:
            levels.pop()
            continue
        values += 1
        match value:
            case str():
                characters += len(value)
            case dict():
                characters += sum(len(key) for key in value if isinstance(key, str))
                levels.append(iter(value.values()))
            case list():
                levels.append(iter(value))
        if values > MOST_VALUES or characters > MOST_BYTES or len(levels) > MOST_LEVELS:
            raise _wrong(f"has more than {MOST_VALUES} values, {MOST_BYTES} characters or {MOST_LEVELS} levels")


_END = object()


def _models(version: str) -> ModuleType:
    return v3_0 if version.startswith("3.0.") else v3_1


def _first(error: ValidationError) -> str:
    """Where, and what; a document with errors everywhere has a copy made of each just to name one."""
    if error.error_count() > MOST_ERRORS:
        return f" in {error.error_count()} places"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f" at {where[:200]}: {first['msg'][:200]}"


def _wrong(problem: str) -> Unavailable:
    return Unavailable(f"its OpenAPI document {problem}", reason="INVALID_OPENAPI_DOCUMENT")


def methods_of(item: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The operations of a path, by method."""
    for method in ("get", "put", "post", "delete", "options", "head", "patch", "trace"):
        if isinstance(operation := item.get(method), Mapping):
            yield method.upper(), operation

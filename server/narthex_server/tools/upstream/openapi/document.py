"""An OpenAPI document: read, bounded, validated, and its references."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import yaml
from openapi_pydantic import parse_obj
from pydantic import ValidationError

from narthex_server.errors import Unavailable

MOST_BYTES = 16 * 1024 * 1024
MOST_NODES = 1_000_000
"""Objects, arrays and values, each counted as often as YAML's aliases repeat it."""

MOST_LEVELS = 200
MOST_HOPS = 32
"""References that lead from one to the next."""

_VERSIONS = ("3.0.", "3.1.")


@dataclass(frozen=True, slots=True)
class Document:
    """A valid document of OpenAPI 3.0 or 3.1."""

    root: Mapping[str, Any]

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
        _bounded(root)
        try:
            parse_obj(root)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(step) for step in first["loc"])
            raise _wrong(f"is not valid at {where[:200]}: {first['msg'][:200]}") from None
        return cls(root)

    @property
    def is_3_0(self) -> bool:
        return str(self.root["openapi"]).startswith("3.0.")

    def resolved(self, value: Any) -> Any:
        """What a local reference leads to, or the value itself; raises Unavailable for one that leads nowhere."""
        for _ in range(MOST_HOPS):
            if not isinstance(value, Mapping) or not isinstance(ref := value.get("$ref"), str):
                return value
            value = self.at(ref)
        raise _wrong("has references that lead in a circle")

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

        Raises Unavailable where there is none.
        """
        servers = self.root.get("servers") or [{"url": "/"}]
        url = str(servers[0]["url"])
        for name, variable in (servers[0].get("variables") or {}).items():
            url = url.replace("{" + name + "}", str(variable.get("default", "")))
        found = urljoin(place, url) if place.startswith(("http://", "https://")) else url
        parts = urlsplit(found)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise _wrong("names no server by a whole URL; give url")
        return found


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        pass
    try:
        return yaml.load(data, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise _wrong(f"is neither JSON nor YAML{where}") from None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Keeps what looks like a date as the text that it is in JSON."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def _bounded(root: Any) -> None:
    """Raises Unavailable for a document that would take long to look at."""
    nodes, levels = 0, [iter([root])]
    while levels:
        value = next(levels[-1], _END)
        if value is _END:
            levels.pop()
            continue
        nodes += 1
        if nodes > MOST_NODES or len(levels) > MOST_LEVELS:
            raise _wrong(f"has more than {MOST_NODES} values, or {MOST_LEVELS} levels")
        if isinstance(value, dict):
            levels.append(iter(value.values()))
        elif isinstance(value, list):
            levels.append(iter(value))


_END = object()


def _wrong(problem: str) -> Unavailable:
    return Unavailable(f"its OpenAPI document {problem}", reason="INVALID_OPENAPI_DOCUMENT")


def methods_of(item: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The operations of a path, by method."""
    for method in ("get", "put", "post", "delete", "options", "head", "patch", "trace"):
        if isinstance(operation := item.get(method), Mapping):
            yield method.upper(), operation

"""One JSON object of a configuration file, read with errors that name the place."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from narthex_server.errors import InvalidRequest, Violation
from narthex_server.tools.upstream.secrets import SecretFile, Text

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")

Choice = TypeVar("Choice", bound=str)


class SourceError(InvalidRequest):
    """The configuration of upstreams is wrong; the text names the document, the key and what fits."""

    reason = "INVALID_MCP_CONFIG"


class Node:
    """One object, and where it stands in its document; `${NAME}` and `${NAME:-default}` are environment variables."""

    def __init__(self, value: object, path: str, environ: Mapping[str, str] = os.environ) -> None:
        self._path = path
        self._environ = environ
        if not isinstance(value, Mapping):
            raise self.error("must be an object")
        self.value: Mapping[str, Any] = value

    @property
    def path(self) -> str:
        return self._path

    def error(self, problem: str, key: str = "") -> SourceError:
        path = f"{self._path}.{key}" if key else self._path
        return SourceError(f"{path}: {problem}", violations=(Violation(path, problem),))

    def only(self, known: set[str]) -> None:
        if unknown := [key for key in self.value if key not in known]:
            raise self.error(f"is not known; known are {', '.join(sorted(known))}", unknown[0])

    def child(self, key: str) -> "Node":
        if key not in self.value:
            raise self.error("is missing", key)
        return Node(self.value[key], f"{self._path}.{key}", self._environ)

    def switch(self, key: str, known: set[str]) -> "Node | None":
        """An object with these keys alone, an empty one where it is left out or `true`; None for `false`."""
        value = self.value.get(key, True)
        if value is False:
            return None
        node = Node({} if value is True or value is None else value, f"{self._path}.{key}", self._environ)
        node.only(known)
        return node

    def items(self, key: str) -> Iterator["Node"]:
        values = self.value[key]
        if not isinstance(values, Sequence) or isinstance(values, str):
            raise self.error("must be an array", key)
        for index, value in enumerate(values):
            yield Node(value, f"{self._path}.{key}[{index}]", self._environ)

    def text(self, key: str) -> str:
        if not (text := self.optional(key)):
            raise self.error("is missing or empty", key)
        return text

    def optional(self, key: str) -> str | None:
        value = self.value.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.error("must be a string", key)
        return self._expand(value, key)

    def texts(self, key: str) -> tuple[str, ...]:
        values = self.value.get(key) or ()
        if isinstance(values, str) or not all(isinstance(v, str) for v in values):
            raise self.error("must be an array of strings", key)
        return tuple(self._expand(v, f"{key}[{i}]") for i, v in enumerate(values))

    def mapping(self, key: str) -> Mapping[str, str]:
        values = self.value.get(key) or {}
        if not isinstance(values, Mapping) or not all(isinstance(v, str) for v in values.values()):
            raise self.error("must be an object of strings", key)
        return MappingProxyType({name: self._expand(v, f"{key}.{name}") for name, v in values.items()})

    def secret(self, key: str) -> Text | None:
        """A text, or `{"file": PATH}` for one that is in a file."""
        value = self.value.get(key)
        return self._file(key) if isinstance(value, Mapping) else self.optional(key)

    def secrets(self, key: str) -> Mapping[str, Text]:
        """An object of such texts."""
        values = self.value.get(key) or {}
        if not isinstance(values, Mapping) or not all(isinstance(v, str | Mapping) for v in values.values()):
            raise self.error('must be an object of strings, or of {"file": PATH}', key)
        node = Node(values, f"{self._path}.{key}", self._environ)
        return MappingProxyType({name: node.secret(name) or "" for name in values})

    def _file(self, key: str) -> SecretFile:
        node = self.child(key)
        node.only({"file"})
        return SecretFile(node.text("file"))

    def url(self, key: str, schemes: tuple[str, ...] = ("http", "https")) -> str:
        url = self.text(key)
        try:
            parts = urlsplit(url)
            good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good:
            raise self.error(f"must be a URL that starts with {' or '.join(f'{s}://' for s in schemes)}", key)
        return url

    def flag(self, key: str, default: bool) -> bool:
        value = self.value.get(key, default)
        if not isinstance(value, bool):
            raise self.error("must be true or false", key)
        return value

    def number(self, key: str, default: float) -> float:
        value = self.value.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < inf:
            raise self.error("must be a number above 0", key)
        return value

    def count(self, key: str, default: int) -> int:
        value = self.number(key, default)
        if not isinstance(value, int):
            raise self.error("must be a whole number", key)
        return value

    def choice(self, key: str, known: tuple[Choice, ...]) -> Choice:
        """One of `known`, the first of them where the key is not there."""
        value = self.optional(key)
        if value is None:
            return known[0]
        for one in known:
            if one == value:
                return one
        raise self.error(f"is {value!r}; known are {', '.join(known)}", key)

    def _expand(self, text: str, key: str) -> str:
        def variable(match: re.Match[str]) -> str:
            value = self._environ.get(match[1], match[2])
            if value is None:
                raise self.error(f"needs the environment variable {match[1]}, which is not set", key)
            return value

        return _VARIABLE.sub(variable, text)

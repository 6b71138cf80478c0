"""Topology files: formats for single layers and for tensors by pattern, in the YAML form that mistral.rs reads.

A key is a layer (`3`), layers from the first to before the last (`0-16`), or a regular expression between slashes that
is searched in tensor names. Its entry names a format (`isq: q4k`); one without leaves its weights as they are.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from narthex_server.errors import InvalidRequest
from narthex_server.weights.kinds import kind_named
from narthex_server.weights.patterns import bounded

_LIMIT = 1 << 20
_LAYERS = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?")
_LAYER_OF_NAME = re.compile(r"(?:^|\.)layers?\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Layers:
    """Layers `start` to `stop`-1."""

    start: int
    stop: int

    def covers(self, name: str) -> bool:
        found = _LAYER_OF_NAME.search(name)
        return found is not None and self.start <= int(found[1]) < self.stop


@dataclass(frozen=True, slots=True)
class Pattern:
    """Tensors in whose name `expression` is found."""

    expression: re.Pattern[str]

    def covers(self, name: str) -> bool:
        return self.expression.search(name) is not None


@dataclass(frozen=True, slots=True)
class Entry:
    """What the file says of some tensors: the format's name, or None to leave them as they are."""

    key: str
    tensors: Layers | Pattern
    kind: str | None


@dataclass(frozen=True, slots=True)
class Topology:
    """Entries, the strongest first: patterns, the last of the file first, then ranges, the highest end first."""

    entries: Sequence[Entry] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file; InvalidRequest says which line cannot be used and why."""
        try:
            if path.exists() and not path.is_file():
                raise InvalidRequest(f"{path}: cannot be read: it is no file")
            if (size := path.stat().st_size) > _LIMIT:
                raise InvalidRequest(f"{path}: {size} bytes are no topology; at most {_LIMIT} are read")
            # Composed, not constructed: nothing in the file becomes an object, and every node knows its line.
            root = yaml.compose(path.read_text("utf-8"), Loader=yaml.SafeLoader)
        except OSError as error:
            raise InvalidRequest(f"{path}: cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(f"{path}: not YAML: {error}") from error
        entries = [_entry(path, key, value) for key, value in _pairs(path, root)] if root is not None else []
        patterns = [entry for entry in entries if isinstance(entry.tensors, Pattern)]
        ranges = [
            (entry.tensors.stop, at, entry) for at, entry in enumerate(entries) if isinstance(entry.tensors, Layers)
        ]
        ranges.sort(key=lambda ranked: ranked[:2], reverse=True)
        return cls((*reversed(patterns), *(entry for _, _, entry in ranges)))

    def find(self, name: str) -> Entry | None:
        """The entry that decides for a tensor; None where none covers it."""
        return next((entry for entry in self.entries if entry.tensors.covers(name)), None)


EMPTY = Topology()


def _pairs(path: Path, node: Any) -> list[tuple[Any, Any]]:
    """The keys and values of a mapping, no key twice."""
    if not isinstance(node, yaml.MappingNode):
        raise _wrong(path, node, "a mapping is expected here")
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _wrong(path, key, "a key must be a layer, a range of layers or a /regular expression/")
        if key.value in seen:
            raise _wrong(path, key, f"{key.value} is there twice")
        seen.add(key.value)
    return list(node.value)


def _entry(path: Path, key: Any, value: Any) -> Entry:
    kind = None
    for field, given in _pairs(path, value):
        text = given.value if isinstance(given, yaml.ScalarNode) else ""
        if field.value == "isq":
            try:
                kind = kind_named(text)
            except ValueError as error:
                raise _wrong(path, given, f"isq of {key.value}: {text!r} {error}") from error
        elif field.value != "device":
            raise _wrong(path, field, f"{key.value}: {field.value} is neither isq nor device")
        elif text != "cpu":
            raise _wrong(
                path, given, f"{key.value}: layers cannot be put on device {text!r}, only on cpu; leave it out"
            )
    return Entry(key.value, _tensors(path, key), kind)


def _tensors(path: Path, key: Any) -> Layers | Pattern:
    text: str = key.value
    if len(text) > 2 and text.startswith("/") and text.endswith("/"):
        try:
            return Pattern(bounded(text[1:-1]))
        except ValueError as error:
            raise _wrong(path, key, f"the regular expression {text} {error}") from error
    if (match := _LAYERS.fullmatch(text)) is None:
        raise _wrong(path, key, f"{text!r} is neither a layer, nor a range like 0-16, nor a /regular expression/")
    start = int(match[1])
    stop = start + 1 if match[2] is None else int(match[2])
    if stop <= start:
        raise _wrong(path, key, f"{text} is empty: its end, which is not part of it, must be above its start")
    return Layers(start, stop)


def _wrong(path: Path, node: Any, complaint: str) -> InvalidRequest:
    return InvalidRequest(f"{path}, line {node.start_mark.line + 1}: {complaint}", reason="INVALID_TOPOLOGY")

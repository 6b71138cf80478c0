"""Settings of every narthex process: frozen dataclasses filled from flags, environment, a TOML file and defaults.

The first of these that names a setting wins: the flag `--max-slots`, the variable `NARTHEX_MAX_SLOTS`, the key
`max_slots` of the process's section in the file, the dataclass's default. A nested dataclass is a nested table:
`tls.cert` is `--tls-cert`, `NARTHEX_TLS_CERT` and `cert` in `[server.tls]`. Only the standard library is used, so that
both sides of the wire and the command line can share this.
"""

import argparse
import difflib
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, cast
from urllib.parse import urlsplit

T = TypeVar("T")

PREFIX = "NARTHEX_"
SECTIONS = ("server", "bridge")
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


class SettingsError(Exception):
    """A setting that cannot be used; the text names where it was given, what is wrong and what fits."""


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP endpoint; port 0 asks for any free one. Written HOST:PORT, `[::1]:80` for IPv6."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError("is not HOST:PORT with a port from 0 to 65535")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class NamedPath:
    """A path under a name of the user's choice. Written NAME=PATH; a bare PATH is named after its file."""

    name: str
    path: Path

    @classmethod
    def parse(cls, text: str) -> Self:
        name, equals, path = text.partition("=")
        if not equals:
            name, path = Path(text).stem, text
        if not name or not path:
            raise ValueError("is not NAME=PATH")
        return cls(name, Path(path).expanduser())


@dataclass(frozen=True, slots=True)
class NamedUrl:
    """A remote engine under a name of the user's choice: its API, URL, and model there, empty for its first.

    Written NAME=API+URL#MODEL with `openai`, or `openai-embed` for an embedder, as API.
    """

    TEXT: ClassVar = "openai"
    EMBEDDING: ClassVar = "openai-embed"

    name: str
    api: str
    url: str
    model: str = ""

    @classmethod
    def describes(cls, text: str) -> bool:
        """Whether a text is meant as one of these, well written or not."""
        return text.partition("=")[2].startswith((f"{cls.TEXT}+", f"{cls.EMBEDDING}+"))

    @classmethod
    def parse(cls, text: str) -> Self:
        name, _, rest = text.partition("=")
        api, _, location = rest.partition("+")
        url, _, model = location.partition("#")
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018 (raises where it is no number)
        except ValueError:
            raise ValueError("is not NAME=openai+URL") from None
        if not name or parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
            raise ValueError("is not NAME=openai+URL, with http:// or https://")
        return cls(name, api, url.rstrip("/"), model)

    @property
    def holds_secret(self) -> bool:
        """Whether the URL holds what may be a secret: a user, a password or a query."""
        parts = urlsplit(self.url)
        return "@" in parts.netloc or bool(parts.query)

    def __str__(self) -> str:
        return f"{self.name}={self.api}+{self.url}{f'#{self.model}' if self.model else ''}"


@dataclass(frozen=True, slots=True)
class NamedText:
    """A text under a name. Written NAME=TEXT."""

    name: str
    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        name, _, value = text.partition("=")
        if not name or not value:
            raise ValueError("is not NAME=TEXT")
        return cls(name, value)


def option(
    default: T, help: str, *, flag: str = "", metavar: str = "", minimum: float | None = None, made: bool = False
) -> T:
    """A dataclass field with what flags and checks need: `flag` where the flag's name is not the field's.

    A path that is `made` need not be there.
    """
    metadata = {"help": help, "flag": flag, "metavar": metavar, "minimum": minimum, "made": made}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of a settings tree: its path of keys in the file, and the dataclass field that declares it."""

    keys: tuple[str, ...]
    kind: Any
    declared: "Field[Any]"

    @property
    def flag(self) -> str:
        return "--" + (self.declared.metadata.get("flag") or "-".join(self.keys).replace("_", "-"))

    @property
    def variable(self) -> str:
        return PREFIX + self.dest.upper()

    @property
    def dest(self) -> str:
        return "_".join(self.keys)

    @property
    def repeated(self) -> bool:
        return typing.get_origin(self.kind) is tuple


def settings(tree: type[Any], above: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Every leaf of a settings dataclass, depth first."""
    hints = typing.get_type_hints(tree)
    for declared in fields(tree):
        keys, kind = (*above, declared.name), hints[declared.name]
        if "help" in declared.metadata:
            yield Setting(keys, kind, declared)
        elif is_dataclass(kind):
            yield from settings(cast(type[Any], kind), keys)


def add_flags(parser: argparse.ArgumentParser, tree: type[Any]) -> None:
    """Adds one flag per setting of `tree`; absent flags parse as None, so that the other sources are asked."""
    for setting in settings(tree):
        meta = setting.declared.metadata
        if _base(setting.kind) is bool:
            switched = "on" if setting.declared.default else "off"
            parser.add_argument(
                setting.flag,
                dest=setting.dest,
                help=f"{meta['help']} (default: {switched})",
                default=None,
                action=argparse.BooleanOptionalAction,
            )
            continue
        parser.add_argument(
            setting.flag,
            dest=setting.dest,
            help=f"{meta['help']} (default: {_shown(setting.declared.default)})",
            metavar=meta["metavar"] or _metavar(setting.kind),
            action="append" if setting.repeated else "store",
        )


def load(
    tree: type[T],
    section: str,
    flags: Mapping[str, object],
    *,
    environ: Mapping[str, str] = os.environ,
    file: Path | None = None,
    partial: bool = False,
) -> T:
    """Fills `tree` from `flags`, `environ` and the file's `[section]`.

    `partial` accepts keys that `tree` does not declare: for a reader of a few of another process's settings.
    Raises SettingsError.
    """
    table = read_section(file, section) if file else {}
    leaves = list(settings(tree))
    if file and not partial:
        _refuse_unknown(table, [leaf.keys for leaf in leaves], file, section)
    found: dict[tuple[str, ...], object] = {}
    for leaf in leaves:
        if (given := flags.get(leaf.dest)) is not None:
            found[leaf.keys] = _convert(leaf, given, leaf.flag)
        elif text := environ.get(leaf.variable):
            found[leaf.keys] = _convert(leaf, text.split(",") if leaf.repeated else text, leaf.variable)
        elif file and (given := _at(table, leaf.keys)) is not None:
            where = f"{'.'.join((section, *leaf.keys))} in {file}"
            found[leaf.keys] = _relocated(_convert(leaf, given, where), file.absolute().parent)
    return _build(tree, found, ())


def parse(tree: type[T], section: str, argv: Sequence[str] | None, *, prog: str, description: str) -> T:
    """The settings of a process from its command line; a mistake is told on stderr and exits with 2."""
    parser = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    parser.add_argument("--config", type=Path, metavar="FILE", help="a narthex.toml (or NARTHEX_CONFIG)")
    add_flags(parser, tree)
    arguments = parser.parse_args(argv)
    try:
        return load(tree, section, vars(arguments), file=config_file(arguments.config))
    except SettingsError as mistake:
        parser.exit(2, f"{prog}: {mistake}\n")


def config_file(flag: Path | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The settings file in use: the flag's, or NARTHEX_CONFIG's, or none."""
    named = environ.get(f"{PREFIX}CONFIG")
    return flag or (Path(named) if named else None)


def read_section(file: Path, section: str) -> Mapping[str, Any]:
    """One section of a settings file; a section nobody owns is an error."""
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{file}: not TOML: {error}") from error
    for name, value in document.items():
        if name not in SECTIONS or not isinstance(value, dict):
            raise SettingsError(f"{file}: [{name}] is not a section{nearest(name, SECTIONS)}")
    return cast(Mapping[str, Any], document.get(section, {}))


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` for the closest known word, else the list of the known ones."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, 1, 0.5)
    return f'; did you mean "{close[0]}"?' if close else f"; known: {', '.join(known)}"


def _refuse_unknown(
    table: Mapping[str, Any], known: Sequence[tuple[str, ...]], file: Path, section: str, above: tuple[str, ...] = ()
) -> None:
    depth = len(above)
    here = {keys[depth] for keys in known if keys[:depth] == above}
    for key, value in table.items():
        if key not in here:
            path = ".".join((section, *above, key))
            raise SettingsError(f'{file}: unknown key "{path}"{nearest(key, here)}')
        if (*above, key) not in known:
            if not isinstance(value, dict):
                raise SettingsError(f"{file}: {'.'.join((section, *above, key))} must be a table")
            _refuse_unknown(value, known, file, section, (*above, key))


def _at(table: Mapping[str, Any], keys: Sequence[str]) -> Any:
    value: Any = table
    for key in keys:
        if not isinstance(value, Mapping) or (value := value.get(key)) is None:
            return None
    return value


def _convert(leaf: Setting, given: Any, where: str) -> object:
    try:
        if leaf.repeated:
            kind = typing.get_args(leaf.kind)[0]
            if isinstance(given, Mapping):
                given = [f"{name}={value}" for name, value in given.items()]
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise ValueError("is not a list")
            return tuple(_value(kind, item) for item in given)
        value = _value(_base(leaf.kind), given)
        minimum = leaf.declared.metadata["minimum"]
        if minimum is not None and isinstance(value, int | float) and value < minimum:
            raise ValueError(f"is below {minimum}")
        return value
    except ValueError as error:
        raise SettingsError(f"{where}: {_quoted(given)} {error}") from error


def _quoted(given: object) -> str:
    """What was given, for a message, without the password that a URL may hold."""
    return re.sub(r"//[^/\s'\"]*@", "//***@", repr(given))


def _value(kind: Any, given: Any) -> object:
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if given not in choices:
            raise ValueError(f"is not one of {', '.join(choices)}")
        return cast(object, given)
    if kind is bool:
        if isinstance(given, bool):
            return given
        if str(given).lower() not in TRUE + FALSE:
            raise ValueError("is neither true nor false")
        return str(given).lower() in TRUE
    if kind in (int, float):
        if isinstance(given, bool) or not isinstance(given, str | int | (float if kind is float else int)):
            raise ValueError("is not a number" if kind is float else "is not a whole number")
        try:
            number = kind(given)
        except ValueError:
            raise ValueError("is not a number" if kind is float else "is not a whole number") from None
        if number != number or number in (float("inf"), float("-inf")):
            raise ValueError("is not a finite number")
        return cast(object, number)
    if not isinstance(given, str):
        raise ValueError("is not a string")
    if kind is Path:
        return Path(given).expanduser()
    if kind == NamedPath | NamedUrl:
        kind = NamedUrl if NamedUrl.describes(given) else NamedPath
    return given if kind is str else cast(object, kind.parse(given))


def _relocated(value: object, folder: Path) -> object:
    """Paths in a file are relative to that file."""
    match value:
        case Path():
            return folder / value
        case NamedPath():
            return replace(value, path=folder / value.path)
        case tuple():
            return tuple(_relocated(item, folder) for item in value)
        case _:
            return value


def _build(tree: type[T], found: Mapping[tuple[str, ...], object], above: tuple[str, ...]) -> T:
    hints, given = typing.get_type_hints(tree), {}
    for declared in fields(cast(Any, tree)):
        keys = (*above, declared.name)
        if keys in found:
            given[declared.name] = found[keys]
        elif is_dataclass(hints[declared.name]) and "help" not in declared.metadata:
            given[declared.name] = _build(hints[declared.name], found, keys)
    return tree(**given)


def flattened(tree: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """Every setting of a filled tree as its dotted key and its value, for people."""
    for declared in fields(tree):
        value = getattr(tree, declared.name)
        if "help" in declared.metadata:
            yield above + declared.name, _shown(value)
        else:
            yield from flattened(value, f"{above}{declared.name}.")


def missing(tree: Any, above: str = "") -> Iterator[tuple[str, Path]]:
    """Every path of a filled tree at which there is nothing, with its dotted key, though something should be there."""
    for declared in fields(tree):
        value = getattr(tree, declared.name)
        if "help" not in declared.metadata:
            yield from missing(value, f"{above}{declared.name}.")
        elif not declared.metadata["made"]:
            for item in value if isinstance(value, tuple) else (value,):
                path = item.path if isinstance(item, NamedPath) else item
                if isinstance(path, Path) and not path.exists():
                    yield above + declared.name, path


def _base(kind: Any) -> Any:
    """X of `X | None`."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(kind) if part is not types.NoneType)
    return kind


def _metavar(kind: Any) -> str:
    kind = typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else _base(kind)
    if typing.get_origin(kind) is Literal:
        return "{" + ",".join(typing.get_args(kind)) + "}"
    return {
        Address: "HOST:PORT",
        NamedPath: "NAME=PATH",
        NamedText: "NAME=TEXT",
        Path: "FILE",
        int: "N",
        float: "X",
    }.get(kind, "TEXT")


def _shown(value: object) -> str:
    if value is None or value is MISSING or value in ((), ""):
        return "none"
    if isinstance(value, NamedPath):
        return f"{value.name}={value.path}"
    if isinstance(value, NamedText):
        return f"{value.name}={value.text}"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    return re.sub(r"(?<=://)([^/@]*:)[^/@]*@", r"\1***@", str(value))  # a URL's password is nobody's to read

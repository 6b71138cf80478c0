"""API keys: a file of hashes that servers verify bearer tokens with, and the making of new ones."""

import hashlib
import json
import os
import re
import secrets
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Self

from narthex.rates import Rate
from narthex.scopes import ALL_TOOLS, ToolScope
from narthex.settings import SettingsError, nearest

SCHEME = "sha256:"


@dataclass(frozen=True, slots=True)
class Key:
    """One accepted key: who holds it, which tenant its work belongs to, and what it may do.

    A `delegate` may speak for other callers, an `admin` may change what the server offers to all. A `rate` of None
    leaves the limit to the server's settings. `expires` is a moment with its time zone, from which on the key is worth
    nothing.
    """

    name: str
    hash: str
    tenant: str = "default"
    delegate: bool = False
    tools: ToolScope = ALL_TOOLS
    rate: Rate | None = None
    expires: datetime | None = None
    admin: bool = False

    @property
    def expired(self) -> bool:
        return self.expires is not None and datetime.now(UTC) >= self.expires

    @property
    def toml(self) -> str:
        """The key as an entry of a key file; what is left to its default is left out."""
        lines = [f"{name} = {json.dumps(getattr(self, name))}" for name in ("name", "tenant", "hash")]
        lines.append(f"delegate = {str(self.delegate).lower()}")
        if self.admin:
            lines.append("admin = true")
        if self.tools != ALL_TOOLS:
            lines.append(f"tools = {json.dumps(self.tools.globs)}")
        if self.rate is not None:
            lines.append(f'rate = "{self.rate}"')
        if self.expires is not None:
            lines.append(f"expires = {self.expires.isoformat()}")
        return "\n".join(["[[keys]]", *lines, ""])


class KeyRing:
    """The keys a server accepts; holds hashes only."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)
        self._by_hash = {key.hash: key for key in self._keys}
        self._by_name: dict[str, list[Key]] = {}
        for key in self._keys:
            self._by_name.setdefault(key.name, []).append(key)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Reads `[[keys]]` entries of a TOML file; raises SettingsError."""
        try:
            document = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise SettingsError(f"{path}: not TOML: {error}") from error
        entries = document.pop("keys", [])
        if document:
            raise SettingsError(f'{path}: unknown key "{next(iter(document))}"; a key file holds [[keys]] entries only')
        if not isinstance(entries, list):
            raise SettingsError(f"{path}: write [[keys]], in double brackets")
        return cls([_entry(entry, f"{path}: keys[{index}]") for index, entry in enumerate(entries)])

    def with_delegate(self, token: str, name: str = "bridge") -> "KeyRing":
        """This ring and one more key, `token` itself, that may speak for other callers."""
        return KeyRing([*self._keys, Key(name, digest(token), delegate=True)])

    def principal(self, bearer: str) -> Key | None:
        """The key whose secret `bearer` is, unless it has expired, or None.

        A look-up by hash: how long it takes tells about hashes only, and nobody can choose a secret by its hash.
        """
        key = self._by_hash.get(digest(bearer))
        return None if key is None or key.expired else key

    def named(self, name: str) -> Key | None:
        """The first key of that name that has not expired: for work that goes on without its holder."""
        return next((key for key in self._by_name.get(name, ()) if not key.expired), None)

    def expired(self, bearer: str) -> bool:
        """Whether `bearer` is the secret of a key that has expired: only its holder can ask."""
        key = self._by_hash.get(digest(bearer))
        return key is not None and key.expired


def digest(secret: str) -> str:
    """What a key file keeps of a secret. The secrets are 256 random bits, so that a plain hash cannot be reversed."""
    return SCHEME + hashlib.sha256(secret.encode()).hexdigest()


def new_key(
    name: str,
    tenant: str = "default",
    *,
    delegate: bool = False,
    admin: bool = False,
    tools: ToolScope = ALL_TOOLS,
    rate: Rate | None = None,
    expires: datetime | None = None,
) -> tuple[str, Key]:
    """A fresh secret, to be given to its holder and kept nowhere, and the entry that verifies it."""
    secret = "nx_" + secrets.token_urlsafe(32)
    return secret, Key(name, digest(secret), tenant, delegate, tools, rate, expires, admin)


def expiry(text: str) -> datetime:
    """The moment that `30d` or `12h` from now, a date (its first moment in UTC) or a time with its zone means.

    Raises ValueError.
    """
    if ahead := re.fullmatch(r"([1-9]\d{0,4})([dh])", text):
        return datetime.now(UTC).replace(microsecond=0) + timedelta(
            hours=int(ahead[1]) * (24 if ahead[2] == "d" else 1)
        )
    try:
        return _moment(date.fromisoformat(text) if len(text) == 10 else datetime.fromisoformat(text))
    except ValueError:
        raise ValueError("is neither 30d, 12h, a date nor a time with its zone, such as 2030-01-31T12:00:00Z") from None


def append_key(path: Path, key: Key) -> None:
    """Adds an entry to a key file, readable by its owner alone; raises SettingsError if the name is taken."""
    if path.exists() and any(known.name == key.name for known in KeyRing.from_file(path)):
        raise SettingsError(f"{path}: a key named {key.name!r} exists; choose another --name")
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8") as file:
        file.write(key.toml + "\n")


def _entry(entry: object, where: str) -> Key:
    if not isinstance(entry, dict):
        raise SettingsError(f"{where} is not a table")
    given: dict[str, Any] = {}
    for name, value in entry.items():
        if name not in _READERS:
            raise SettingsError(f'{where}: unknown key "{name}"{nearest(name, _READERS)}')
        try:
            given[name] = _READERS[name](value)
        except ValueError as error:
            raise SettingsError(f"{where}: {name} {error}") from None
    for name in ("name", "hash"):
        if not given.get(name):
            raise SettingsError(f"{where}: {name} is missing")
    return Key(**given)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be a boolean")
    return value


def _hash(value: object) -> str:
    hexadecimal = _text(value).removeprefix(SCHEME)
    if len(hexadecimal) != 64 or not set(hexadecimal) <= set("0123456789abcdef"):
        raise ValueError(f"is not {SCHEME}<64 lower-case hexadecimal digits>; use `narthex keys new`")
    return SCHEME + hexadecimal


def tool_scope(value: object) -> ToolScope:
    """The patterns of a list; raises ValueError for anything else."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError('must be a list of names or patterns, such as ["time__*"]')
    return ToolScope(tuple(value))


def _moment(value: object) -> datetime:
    """A TOML date or time, or a text as `expiry` reads it, with its time zone."""
    match value:
        case datetime(tzinfo=None):
            raise ValueError("needs a time zone, such as the Z in 2030-01-31T12:00:00Z")
        case datetime():
            return value
        case date():
            return datetime.combine(value, time(), UTC)
        case str() if value[-1:] not in ("d", "h"):  # counted from when the file is read they would never come
            return expiry(value)
    raise ValueError("must be a date or a time with its zone, such as 2030-01-31T12:00:00Z")


_READERS: Mapping[str, Callable[[object], object]] = {
    "name": _text,
    "hash": _hash,
    "tenant": _text,
    "delegate": _flag,
    "admin": _flag,
    "tools": tool_scope,
    "rate": lambda value: Rate.parse(_text(value)),
    "expires": _moment,
}

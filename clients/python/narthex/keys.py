"""API keys: a file of hashes that servers verify bearer tokens with, and the making of new ones."""

import hashlib
import hmac
import json
import os
import secrets
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from narthex.settings import SettingsError, nearest

SCHEME = "sha256:"


@dataclass(frozen=True, slots=True)
class Key:
    """One accepted key: who holds it, which tenant its work belongs to, and whether it may speak for other callers."""

    name: str
    hash: str
    tenant: str = "default"
    delegate: bool = False

    @property
    def toml(self) -> str:
        """The key as an entry of a key file."""
        text = [f"{name} = {json.dumps(getattr(self, name))}" for name in ("name", "tenant", "hash")]
        return "\n".join(["[[keys]]", *text, f"delegate = {str(self.delegate).lower()}", ""])


class KeyRing:
    """The keys a server accepts; holds hashes only."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

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
        """The key whose secret `bearer` is, or None; takes the same time for every wrong token."""
        given, found = digest(bearer), None
        for key in self._keys:
            if hmac.compare_digest(key.hash, given):
                found = key
        return found


def digest(secret: str) -> str:
    """What a key file keeps of a secret. The secrets are 256 random bits, so that a plain hash cannot be reversed."""
    return SCHEME + hashlib.sha256(secret.encode()).hexdigest()


def new_key(name: str, tenant: str = "default", *, delegate: bool = False) -> tuple[str, Key]:
    """A fresh secret, to be given to its holder and kept nowhere, and the entry that verifies it."""
    secret = "nx_" + secrets.token_urlsafe(32)
    return secret, Key(name, digest(secret), tenant, delegate)


def append_key(path: Path, key: Key) -> None:
    """Adds an entry to a key file, readable by its owner alone; raises SettingsError if the name is taken."""
    if path.exists() and any(known.name == key.name for known in KeyRing.from_file(path)._keys):
        raise SettingsError(f"{path}: a key named {key.name!r} exists; choose another --name")
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w", encoding="utf-8") as file:
        file.write(key.toml + "\n")


def _entry(entry: object, where: str) -> Key:
    if not isinstance(entry, dict):
        raise SettingsError(f"{where} is not a table")
    kinds = {field.name: bool if field.name == "delegate" else str for field in fields(Key)}
    for name, value in entry.items():
        if name not in kinds:
            raise SettingsError(f'{where}: unknown key "{name}"{nearest(name, kinds)}')
        if not isinstance(value, kinds[name]):
            raise SettingsError(f"{where}: {name} must be a {'boolean' if name == 'delegate' else 'string'}")
    for name in ("name", "hash"):
        if not entry.get(name):
            raise SettingsError(f"{where}: {name} is missing")
    hexadecimal = entry["hash"].removeprefix(SCHEME)
    if len(hexadecimal) != 64 or not set(hexadecimal) <= set("0123456789abcdef"):
        raise SettingsError(f"{where}: hash is not {SCHEME}<64 lower-case hexadecimal digits>; use `narthex keys new`")
    return Key(**{**entry, "hash": SCHEME + hexadecimal})

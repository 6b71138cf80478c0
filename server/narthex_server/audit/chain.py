"""How records hang together: each hash covers the one before, so that none can be changed, added or taken away."""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from narthex.settings import SettingsError

START = bytes(32)
"""What the hash of the first record covers in place of a hash before it."""

MIN_KEY = 32
"""Bytes that a key file has at least."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last record of a chain; `seq` is 0 before the first."""

    seq: int = 0
    hash: bytes = START

    @classmethod
    def parse(cls, text: str) -> Self:
        """From an anchor, SEQ:HASH. Raises ValueError."""
        seq, _, digest = text.strip().partition(":")
        if not seq.isdecimal() or len(digest) != 64:
            raise ValueError("is not SEQ:HASH")
        return cls(int(seq), bytes.fromhex(digest))

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"


class Chain:
    """Hashes records by SHA-256, or by HMAC-SHA-256 with a key, without which nobody can make such a chain anew."""

    def __init__(self, key: bytes = b"") -> None:
        self.key_id = hashlib.sha256(b"narthex audit key\0" + key).hexdigest()[:16] if key else ""
        self._hash: Callable[[bytes], bytes] = (lambda data: hmac.digest(key, data, "sha256")) if key else _plain

    @classmethod
    def of_file(cls, file: Path | None) -> Self:
        """With the key in a file, or none. Raises SettingsError."""
        if file is None:
            return cls()
        try:
            key = file.read_bytes().strip()
        except OSError as error:
            raise SettingsError(f"audit.key_file: {file} cannot be read: {error.strerror}") from error
        if len(key) < MIN_KEY:
            raise SettingsError(f"audit.key_file: {file} holds {len(key)} bytes; a key has {MIN_KEY} at least")
        return cls(key)

    def next(self, head: Head, body: bytes) -> Head:
        """The head after one more record."""
        seq = head.seq + 1
        return Head(seq, self._hash(b"record\0" + head.hash + seq.to_bytes(8, "big") + body))

    def seal(self, head: Head, closed: bool) -> bytes:
        """What says where a file ends; `closed` where another goes on."""
        return self._hash(b"head\0" + head.hash + head.seq.to_bytes(8, "big") + bytes([closed]))


def _plain(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()

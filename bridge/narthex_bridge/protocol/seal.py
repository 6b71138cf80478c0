"""Opaque texts that clients keep for us and can neither forge nor use for something else."""

import hashlib
import hmac
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode

_DIGEST, _TIME = 16, 8


class Seal:
    """Signs texts with a secret (HMAC-SHA-256, 128 bits), each for one purpose and until a time.

    The purpose names whatever a text must not be used beyond: its kind, its caller, the request it belongs to.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def close(self, purpose: str, content: bytes, lifetime_s: float) -> str:
        """A text that `open` gives the content of."""
        body = int(time.time() + lifetime_s).to_bytes(_TIME) + content
        return urlsafe_b64encode(self._digest(purpose, body) + body).decode().rstrip("=")

    def open(self, purpose: str, text: str) -> bytes | None:
        """The content; None for a text that is not ours, was for something else, or is too old."""
        try:
            raw = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except ValueError:
            return None
        digest, body = raw[:_DIGEST], raw[_DIGEST:]
        if not hmac.compare_digest(digest, self._digest(purpose, body)):
            return None
        if int.from_bytes(body[:_TIME]) < time.time():
            return None
        return body[_TIME:]

    def _digest(self, purpose: str, body: bytes) -> bytes:
        sized = len(purpose.encode()).to_bytes(4) + purpose.encode()
        return hmac.digest(self._secret, sized + body, hashlib.sha256)[:_DIGEST]

"""What went wrong at a remote engine, as our errors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from narthex_server.errors import (
    ContextOverflow,
    FailedPrecondition,
    InvalidRequest,
    NarthexError,
    ResourceExhausted,
    Unavailable,
)

LONGEST_TEXT = 400
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_TOO_LONG_CODE = "context_length_exceeded"
_TOO_LONG = re.compile(rf"context.{{0,20}}(length|size|window)|{_TOO_LONG_CODE}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Refusals:
    """Errors of the remote engine of a model; `secret` is never part of one."""

    model: str
    secret: str = field(default="", repr=False)

    def status(self, status: int, body: bytes, retry_after: str = "") -> NarthexError:
        """The error that an HTTP answer other than 200 stands for."""
        told = _parsed(body)
        error = told.get("error") if isinstance(told, Mapping) else None
        return self._error(status, self._text(told), retry_after, too_long=_code(error) == _TOO_LONG_CODE)

    def told(self, error: Any) -> NarthexError:
        """The error that an `error` object within a stream stands for."""
        code = _code(error)
        too_long = code == _TOO_LONG_CODE
        status = code if type(code) is int else 400 if too_long else 500
        return self._error(status, self._text({"error": error}), too_long=too_long)

    def unreachable(self, what: str) -> Unavailable:
        """Nothing came, or not all: `what` says how in our words."""
        text = f"the remote engine of model {self.model!r} {what}; retry later"
        return Unavailable(text, reason="REMOTE_UNAVAILABLE", metadata=self._metadata())

    def broken(self, what: str) -> Unavailable:
        """It came, but is not what the API has there."""
        text = f"the remote engine of model {self.model!r} {what}"
        return Unavailable(text, reason="REMOTE_BROKEN", metadata=self._metadata())

    def _error(self, status: int, text: str, retry_after: str = "", *, too_long: bool) -> NarthexError:
        who, said = f"the remote engine of model {self.model!r}", f": {text}" if text else ""
        metadata = self._metadata(http_status=str(status))
        if retry_after:
            metadata["retry_after_seconds"] = retry_after
        if status in (401, 403, 407):  # whose text may repeat the key, or a part of it
            return FailedPrecondition(
                f"{who} refuses this server's credentials (HTTP {status}); its operator has to set a key that it takes",
                reason="REMOTE_REFUSED",
                metadata=metadata,
            )
        if status in (404, 405, 501):
            return FailedPrecondition(
                f"{who} does not have this model or method (HTTP {status}){said}",
                reason="REMOTE_NOT_FOUND",
                metadata=metadata,
            )
        if status == 429:
            return ResourceExhausted(
                f"{who} has too much to do{said}; retry later", reason="REMOTE_BUSY", metadata=metadata
            )
        if 300 <= status < 400:
            return FailedPrecondition(
                f"{who} is somewhere else (HTTP {status}); its operator has to name the right URL",
                reason="REMOTE_NOT_FOUND",
                metadata=metadata,
            )
        if 400 <= status < 500 and status != 408:
            if too_long or _TOO_LONG.search(text):
                return ContextOverflow(f"{who} refuses the request{said}")
            return InvalidRequest(f"{who} refuses the request{said}", reason="REMOTE_INVALID", metadata=metadata)
        return Unavailable(
            f"{who} failed (HTTP {status}){said}; retry later", reason="REMOTE_UNAVAILABLE", metadata=metadata
        )

    def _metadata(self, **more: str) -> dict[str, str]:
        return {"model": self.model, **more}

    def _text(self, body: Any) -> str:
        """What it says about the error: one line, not long."""
        found = body
        for _ in range(3):
            if not isinstance(found, Mapping):
                break
            found = next((found[key] for key in ("error", "message", "detail") if key in found), "")
        text = found if isinstance(found, str) else orjson.dumps(found, default=str).decode() if found else ""
        text = text[: 8 * LONGEST_TEXT]
        text = _CONTROL.sub(" ", text.replace(self.secret, "***") if self.secret else text).strip()
        return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _code(error: Any) -> Any:
    return error.get("code") if isinstance(error, Mapping) else None


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except ValueError:
        text = body.decode("utf-8", "replace")
        return "" if text.lstrip().startswith("<") else text  # a proxy's page

"""Texts that are told to nobody but the server that they are for."""

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from narthex_server.errors import NarthexError, Unavailable, Violation
from narthex_server.tools.tool import ToolResult

MOST_BYTES = 64 * 1024
"""The largest secret in a file: a key or a token, not a document."""

SHORTEST = 6
"""Characters of the shortest secret that is looked for in texts; shorter ones are in words."""

MOST_KNOWN = 1024
"""Secrets that one upstream's texts are searched for, the latest: tokens come and go. As many again of callers' own."""

HIDDEN = "***"

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
"""In JSON."""


@dataclass(frozen=True, slots=True)
class SecretFile:
    """The text in a file, which is read at each use: it may hold another one after a rotation.

    `before` stands before it, such as a scheme before a token.
    """

    path: str
    before: str = ""

    def read(self) -> str:
        """Raises Unavailable where there is no such file, or none that holds a text of one line."""
        try:
            with Path(self.path).open("rb") as file:
                data = file.read(MOST_BYTES + 1)
            text = data.decode().strip()
        except OSError as error:
            raise self._unreadable(error.strerror or type(error).__name__) from None
        except ValueError:
            raise self._unreadable("is not UTF-8") from None
        if not text or len(data) > MOST_BYTES or not text.isprintable():
            raise self._unreadable(f"holds no text of one line and at most {MOST_BYTES} bytes")
        return self.before + text

    def _unreadable(self, why: str) -> Unavailable:
        return Unavailable(f"secret file {self.path}: {why}", reason="SECRET_UNREADABLE")


_Error = TypeVar("_Error", bound=NarthexError)

Text = str | SecretFile
"""As it stands in the configuration, or in a file."""


class Secrets:
    """What one upstream is told and nobody else."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, None] = OrderedDict()
        self._brought: OrderedDict[str, None] = OrderedDict()

    def reveal(self, text: Text) -> str:
        """The text itself, which is hidden from now on; raises Unavailable for a file that cannot be read."""
        value = text.read() if isinstance(text, SecretFile) else text
        self.note(value)
        return value

    def reveal_all(self, texts: Mapping[str, Text]) -> dict[str, str]:
        return {name: self.reveal(text) for name, text in texts.items()}

    def note(self, value: str) -> None:
        """`value`, and each long word of it as in `Bearer <token>`, is hidden from now on; also as JSON writes it."""
        self._remember(self._known, value)

    def note_brought(self, value: str) -> None:
        """As `note`, for what a caller brings: whatever callers make up, what is our own stays hidden."""
        self._remember(self._brought, value)

    def _remember(self, known: OrderedDict[str, None], value: str) -> None:
        parts = {value, *(word for word in value.split() if len(word) >= SHORTEST + 2)}
        for part in parts | {json.dumps(part, ensure_ascii=ascii)[1:-1] for part in parts for ascii in (False, True)}:
            if len(part) < SHORTEST:
                continue
            known[part] = None
            known.move_to_end(part)
            if len(known) > MOST_KNOWN:
                known.popitem(last=False)

    def hide(self, text: str) -> str:
        """The text without any secret, however a server came to repeat one."""
        known = filter(text.__contains__, (*self._known, *self._brought))
        for value in sorted(known, key=len, reverse=True):
            text = text.replace(value, HIDDEN)
        return text

    def hide_in(self, error: _Error) -> _Error:
        """The error with texts that have no secret in them."""
        error.message = self.hide(error.message)
        error.args = (error.message,)
        error.metadata = {key: self.hide(value) for key, value in error.metadata.items()}
        error.violations = tuple(Violation(v.field, self.hide(v.description)) for v in error.violations)
        return error

    def hide_in_result(self, result: ToolResult) -> ToolResult:
        """A failure without secrets in what it says; what a tool gives when it works is the caller's to see."""
        if not result.is_error:
            return result
        content, structured = map(self._hide_in_json, (result.content, result.structured_content))
        return replace(result, content=content, structured_content=structured)

    def _hide_in_json(self, data: bytes) -> bytes:
        """Within its strings, as these may be JSON texts themselves."""

        def hidden(literal: re.Match[bytes]) -> bytes:
            text = json.loads(literal[0])
            without = self.hide(text)
            return literal[0] if without == text else json.dumps(without).encode()

        return _STRING.sub(hidden, data)

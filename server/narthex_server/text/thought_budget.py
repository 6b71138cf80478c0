"""An end to thinking."""

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from narthex_server.text.reasoning import Reasoning
from narthex_server.text.tokenizer import Tokenizer

_PARTIAL = re.compile(rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z")
"""Bytes that end within a character of UTF-8."""


class Follower(Protocol):
    """A grammar, as the engine sees it."""

    def mask(self, logits: NDArray[np.float32]) -> None: ...

    def accept(self, token: int) -> None: ...


class ThoughtBudget:
    """Lets a turn think for `limit` tokens, then allows nothing but the closing mark; `inner` holds all the while.

    `inside` says that the prompt has opened the thoughts already. Only whole characters are cut off, and only where
    `inner` allows the mark.
    """

    def __init__(
        self, tokenizer: Tokenizer, reasoning: Reasoning, limit: int, inside: bool, inner: Follower | None = None
    ) -> None:
        self._pieces: Sequence[bytes] = tokenizer.pieces or ()
        self._opening, self._close = reasoning.opening.encode(), reasoning.close.encode()
        self._closing = tuple(tokenizer.encode(reasoning.close, add_special=False))
        self._left = limit
        self._inner = inner
        self._state = "inside" if inside else "before"
        self._tail = b""
        self._at = 0  # tokens of the closing mark that are written

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Set the logits [vocab] of all tokens that may not come next to -inf."""
        if self._inner is not None:
            self._inner.mask(logits)
        if self._state != "inside" or (self._left > 0 and not self._at):
            return
        token = self._closing[self._at]
        value = logits[token]
        if not self._at and (_PARTIAL.search(self._tail) or value == -np.inf):
            return
        logits.fill(-np.inf)
        logits[token] = value if value > -np.inf else 0

    def accept(self, token: int) -> None:
        """Go on by a token that was allowed."""
        if self._inner is not None:
            self._inner.accept(token)
        if self._state == "after":
            return
        forced = self._left <= 0 or self._at
        self._tail += self._pieces[token] if token < len(self._pieces) else b""
        if self._state == "before":
            rest = self._tail.lstrip()
            if rest.startswith(self._opening):
                self._state, self._tail = "inside", rest[len(self._opening) :]
            elif not self._opening.startswith(rest):
                self._state = "after"
            return
        self._left -= 1
        if self._close in self._tail:
            self._state = "after"
        elif forced and token == self._closing[self._at]:
            self._at += 1
        self._tail = self._tail[-len(self._close) - 4 :]

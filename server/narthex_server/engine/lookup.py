"""Guesses of what comes next, from what followed the same tokens before."""

import numpy as np
from numpy.typing import NDArray

MOST = 8
"""Tokens that are guessed at once: in longer drafts the last ones are rarely right."""
_BITS = 32
_LEARNING = 0.125


class Lookup:
    """Where each two and three neighbours of one sequence's tokens came last; quotations and calls repeat them.

    `chance` is how often a draft's token was right of late, whether it was tried or only guessed.
    """

    __slots__ = ("_after", "_guess", "_ids", "chance")

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._after: dict[int, int] = {}
        """By two or three tokens, packed: the place of the token that followed them last."""
        self._guess: int | None = None
        self.chance = 0.5

    def propose(self, tokens: NDArray[np.int64], most: int) -> list[int]:
        """Up to `most` tokens that may come after `tokens`, which begin with those of the last time; maybe none."""
        self._read(tokens)
        ids = self._ids
        place = None
        if len(ids) > 2:
            pair = _pair(ids[-2], ids[-1])
            place = self._after.get(_triple(ids[-3], pair)) or self._after.get(pair)
        if place is None:
            self._guess = None
            return []
        draft = ids[place : place + most]
        if len(draft) < most:  # it reaches what is not written yet: a repetition goes on repeating itself
            draft = (draft * most)[:most]
        self._guess = draft[0]
        return draft

    def tried(self, draft: list[int], accepted: int) -> None:
        """Learn from a draft of which the first `accepted` tokens were right."""
        self._guess = None
        for _ in range(accepted):
            self._learn(1.0)
        if accepted < len(draft):
            self._learn(0.0)

    def _read(self, tokens: NDArray[np.int64]) -> None:
        ids, after = self._ids, self._after
        start = len(ids)
        ids += tokens[start:].tolist()
        if self._guess is not None and start < len(ids):
            self._learn(float(ids[start] == self._guess))
            self._guess = None
        for place in range(max(start, 3), len(ids)):
            pair = _pair(ids[place - 2], ids[place - 1])
            after[pair] = after[_triple(ids[place - 3], pair)] = place

    def _learn(self, right: float) -> None:
        self.chance += _LEARNING * (right - self.chance)


def _pair(first: int, second: int) -> int:
    return first << _BITS | second


def _triple(first: int, pair: int) -> int:
    return (first + 1) << 2 * _BITS | pair

"""DRY, "don't repeat yourself": a growing penalty on prolonging what was said before."""

import numpy as np
from numpy.typing import NDArray

from narthex_server.engine.decoder import Logits
from narthex_server.engine.request import Dry

_MOST = 1e30
"""A penalty that no logit outweighs, and that leaves them finite."""


class DryPenalty:
    """Keeps for each position how many tokens up to it are the same as those at the end of all.

    A new token t makes that matches[i] = matches[i-1] + 1 where token i is t, and 0 elsewhere: one pass over the
    window. Occurrences may overlap, a match counts only tokens within the window, and breakers match nothing and are
    never penalised. As in the sampler's first publication (p-e-w, text-generation-webui, pull request 5677).
    """

    __slots__ = ("_dry", "_matches", "_seen")

    def __init__(self, dry: Dry) -> None:
        self._dry = dry
        self._matches = np.zeros(256, np.int32)
        self._seen = 0

    def apply(self, logits: Logits, tokens: NDArray[np.int64]) -> None:
        if self._seen == 0:
            self._begin(tokens)
        for length in range(self._seen + 1, len(tokens) + 1):
            self._extend(tokens[:length])
        self._seen = len(tokens)
        first = self._first(self._seen)
        # Those before the last token, and the tokens that came after them.
        depths = np.minimum(self._matches[first : self._seen - 1], np.arange(1, self._seen - first))
        found = np.flatnonzero(depths >= max(self._dry.allowed_length, 1))
        if len(found):
            self._penalise(logits, tokens[first + 1 : self._seen][found], depths[found])

    def _penalise(self, logits: Logits, ids: NDArray[np.int64], depths: NDArray[np.int32]) -> None:
        """Of several positions before the same token the one with the longest match counts."""
        order = np.argsort(depths, kind="stable")
        longest = dict(zip(ids[order].tolist(), depths[order].tolist(), strict=True))  # the last of equal keys stays
        for token in longest.keys() & self._dry.breakers:
            del longest[token]
        with np.errstate(over="ignore"):
            grown = np.float64(self._dry.base) ** (np.array([*longest.values()]) - self._dry.allowed_length)
            costs = np.minimum(self._dry.multiplier * grown, _MOST)
        logits[[*longest]] -= costs.astype(np.float32)

    def _extend(self, tokens: NDArray[np.int64]) -> None:
        """Goes on by the last of the tokens."""
        length = len(tokens)
        if length > len(self._matches):
            self._matches = np.concatenate((self._matches, np.zeros_like(self._matches)))
        first, token = self._first(length), tokens[-1]
        matches = self._matches[first:length]
        if int(token) in self._dry.breakers:
            matches.fill(0)
            return
        same = tokens[first:] == token
        matches[1:] = np.where(same[1:], matches[:-1] + 1, 0)
        matches[0] = same[0]
        matches[-1] = 0  # itself is no earlier occurrence

    def _begin(self, tokens: NDArray[np.int64]) -> None:
        """All matches of a prompt at once, in time that grows with its length: Z-algorithm, from the end."""
        first = self._first(len(tokens))
        window = tokens[first:]
        broken = np.isin(window, np.array([*self._dry.breakers], np.int64))
        # A breaker equals nothing, not even itself.
        values = np.where(broken, -1 - np.arange(len(window)), window)[::-1].tolist()
        matches = _z(values)
        self._seen = len(tokens)
        self._matches = np.zeros(max(256, 2 * self._seen), np.int32)
        self._matches[first : self._seen] = matches[::-1]

    def _first(self, length: int) -> int:
        return max(length - self._dry.window, 0) if self._dry.window else 0


def _z(values: list[int]) -> list[int]:
    """For each place but the first, which gets 0, how far the values from there on equal those from the start."""
    size = len(values)
    found = [0] * size
    left = right = 0
    for at in range(1, size):
        depth = min(right - at, found[at - left]) if at < right else 0
        while at + depth < size and values[depth] == values[at + depth]:
            depth += 1
        found[at] = depth
        if at + depth > right:
            left, right = at, at + depth
    return found

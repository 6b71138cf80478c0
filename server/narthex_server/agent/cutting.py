"""Results cut to what a model can read, with the whole kept for whoever wants more."""

from dataclasses import dataclass

from narthex_server.agent.options import MIN_RESULT_BYTES, ResultLimits
from narthex_server.errors import NarthexError
from narthex_server.pipelines.serving import Tokens
from narthex_server.principal import Principal
from narthex_server.tools.kept_results import KeptResults

BYTES_PER_TOKEN = 3
"""Of ordinary text or more; JSON has fewer. Used where the model does not count cheaply."""

LONGEST_TOKEN = 16
"""Bytes of text per token beyond which nobody looks for more of them."""


@dataclass(frozen=True, slots=True)
class Reader:
    """What is known of the model that reads: its context in tokens, and its tokenizer where it costs little to ask."""

    max_context: int
    tokens: Tokens | None = None


class Cutter:
    """Cuts the results of one run."""

    def __init__(self, limits: ResultLimits, reader: Reader, kept: KeptResults, principal: Principal) -> None:
        self._limits = limits
        self._tokens = max(limits.tokens or reader.max_context // 4, 1)
        self._reader = reader
        self._kept = kept
        self._principal = principal
        self._shown = 0
        self.cut = False  # whether anything was

    @property
    def longest(self) -> int:
        """How many characters fit into one result, whatever they are."""
        return max(min(self._limits.bytes // 4, self._tokens) - MIN_RESULT_BYTES // 4, MIN_RESULT_BYTES // 4)

    async def fit(self, text: str) -> str:
        """The text, or its beginning and a note that says how to read on."""
        size = len(text.encode("utf-8", "replace"))
        most = self._limits.bytes
        if self._limits.total_bytes is not None:
            most = max(min(most, self._limits.total_bytes - self._shown), MIN_RESULT_BYTES)
        begin = _sensible(text, await self._within(text if size <= most else _bytes_of(text, most)))
        if len(begin) < len(text):
            self.cut = True
            begin += self._note(text, len(begin), size)
        self._shown += len(begin.encode("utf-8", "replace"))
        return begin

    async def _within(self, text: str) -> str:
        """The beginning of the text that has no more tokens than allowed."""
        if len(text.encode("utf-8", "replace")) <= self._tokens:
            return text  # no token is shorter than a byte
        if self._reader.tokens is None:
            return _bytes_of(text, self._tokens * BYTES_PER_TOKEN)
        looked = _bytes_of(text, self._tokens * LONGEST_TOKEN)
        try:
            ids = await self._reader.tokens.encode(looked, False)
            if len(ids) <= self._tokens:
                return looked
            read = await self._reader.tokens.decode(ids[: self._tokens], False)
        except NarthexError:
            return _bytes_of(text, self._tokens * BYTES_PER_TOKEN)
        return text[: min(len(read.rstrip("\ufffd")), len(looked))]

    def _note(self, text: str, shown: int, size: int) -> str:
        head = f"\n[Cut: {shown} of {len(text)} characters are shown, the whole has {size} bytes."
        if uri := self._kept.keep(self._principal, text):
            return f"{head} It is {uri}, and the rest begins at offset {shown}.]"
        return f"{head} It is too large to be kept.]"


def _bytes_of(text: str, most: int) -> str:
    """The beginning of the text that has so many bytes at most, whole characters."""
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")


def _sensible(text: str, begin: str) -> str:
    """The beginning, a little shorter where that ends it at a line or a word."""
    if len(begin) == len(text):
        return text
    for mark in ("\n", " "):
        if (end := begin.rfind(mark) + 1) > len(begin) * 3 // 4:
            return text[:end]
    return text[: len(begin)]

"""Token ids to text, as they arrive."""

import codecs
from collections.abc import Iterable

from narthex_server.text.tokenizer import Tokenizer


class Detokenizer:
    """Turns one sequence's tokens into text: whole characters only, a constant amount of work per token.

    Special tokens are left out except those in `keep`. `starts_text` says that the sequence stands alone, so that the
    space which some tokenizers put before a text is dropped; a continuation of a prompt keeps it.
    """

    def __init__(self, tokenizer: Tokenizer, keep: frozenset[int] = frozenset(), starts_text: bool = True) -> None:
        self._hidden = tokenizer.special_ids - keep
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._strip = starts_text and tokenizer.strips_first_space
        self._window: list[int] = []  # for tokenizers whose tokens have no bytes of their own
        self._shown = ""

    def feed(self, ids: Iterable[int]) -> str:
        """The text that became certain with these tokens; a character whose bytes are not all there waits."""
        pieces = self._tokenizer.pieces
        visible = [index for index in ids if index not in self._hidden]
        if pieces is None:
            return "".join([self._feed_window(index) for index in visible])
        # An id beyond the vocabulary is padding of the model's last layer: it has no text.
        data = b"".join([pieces[index] for index in visible if index < len(pieces)])
        if self._strip and data:
            self._strip = False
            data = data.removeprefix(b" ")
        return self._utf8.decode(data)

    def finish(self) -> str:
        """What was held back, with U+FFFD for bytes that never became a character."""
        return self._utf8.decode(b"", final=True)

    def _feed_window(self, index: int) -> str:
        """Decodes the last few tokens again with the new one: such decoders look at most at a token's neighbours."""
        self._window.append(index)
        text = self._tokenizer.decode(self._window, skip_special=False)
        new = text.removeprefix(self._shown)
        if len(self._window) > 4:
            del self._window[0]
            text = self._tokenizer.decode(self._window, skip_special=False)
        self._shown = text
        return new

"""Grammars over a model's tokens; the only importer of llguidance."""

import json
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import llguidance
import numpy as np
from numpy.typing import NDArray

from narthex_server.errors import InvalidRequest
from narthex_server.text.compiling import Compiling
from narthex_server.text.constraint import refuse
from narthex_server.text.tokenizer import Tokenizer

LARGEST = 1 << 18
"""Bytes of a grammar; together with the stack of the thread that compiles it bounds how deep its rules can go."""
_KEPT = 32
_STATES, _ITEMS = 50_000, 500
"""States of a grammar's lexer, of 1 or 2 kB each, and readings of a text side by side, which bound a step's time."""
_TOO_COMPLEX = "is too complex to be followed token by token; make its counts, alternatives or nesting smaller"
_NO_FORCING = '%llguidance {"no_forcing": true}'  # the model chooses the tokens of a text that is certain, too

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_BIAS = np.where(_BITS, np.float32(0), np.float32(-np.inf))
"""What each byte of the tokens' bits adds to eight logits: ten times as fast as spreading bits and choosing by them."""
_BIAS.setflags(write=False)


@dataclass(frozen=True, slots=True)
class Rules:
    """A grammar in Lark's notation, from its rule `start`; it may refer to a second one as `@answer`."""

    text: str
    answer: str | None = None


class Vocabulary:
    """The bytes of every token, as the library wants them; ids up to `width` exist for the model."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(
        self,
        tokens: Sequence[bytes],
        special: frozenset[int],
        ends: frozenset[int],
        width: int,
        compiling: Compiling | None = None,
    ) -> None:
        padded = [*tokens[:width], *[b""] * (width - len(tokens))]
        self.tokens = padded
        self.ends = sorted(end for end in ends if end < width)
        self.eos_token_id = self.ends[0]
        self.special_token_ids = sorted(index for index in special | ends if index < width)
        self.compiling = compiling or Compiling()
        self._native: llguidance.LLTokenizer | None = None
        self._lock = self.compiling.mutex()

    def __call__(self, text: str) -> list[int]:
        """Part of the library's interface, for texts that a grammar makes certain; no_forcing keeps it from asking."""
        raise RuntimeError(f"asked for the tokens of a text: {_NO_FORCING} is not heeded")

    def __reduce__(self) -> tuple[object, ...]:
        special, ends = frozenset(self.special_token_ids), frozenset(self.ends)
        return (Vocabulary, (tuple(self.tokens), special, ends, len(self.tokens)))

    def matcher(self, rules: Rules) -> llguidance.LLMatcher:
        """Errors are the matcher's own state."""
        parts = [{"lark_grammar": f"{rules.text}\n{_NO_FORCING}"}]
        if rules.answer is not None:
            parts.append({"name": "answer", "lark_grammar": rules.answer})
        with self._lock:
            if self._native is None:
                self._native = llguidance.LLTokenizer(self, eos_token=self.ends)  # type: ignore[arg-type]
        limits = llguidance.LLParserLimits(max_lexer_states=_STATES, max_items_in_row=_ITEMS, verbose_errors=False)
        return llguidance.LLMatcher(self._native, json.dumps({"grammars": parts}), log_level=0, limits=limits)


class TokenGrammar:
    """One text on its way through a grammar: the engine's Grammar."""

    __slots__ = ("_accepted", "_matcher", "_rules", "_vocabulary")

    def __init__(
        self, vocabulary: Vocabulary, rules: Rules, matcher: llguidance.LLMatcher, accepted: Sequence[int] = ()
    ) -> None:
        self._vocabulary = vocabulary
        self._rules = rules
        self._matcher = matcher
        self._accepted: list[int] = []
        for token in accepted:
            self.accept(token)

    def __reduce__(self) -> tuple[object, ...]:
        return (_restored, (self._vocabulary, self._rules, tuple(self._accepted)))

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Allow the tokens that may come next; all alike where something else has ruled out every one of them.

        Errors: InvalidRequest where the grammar is too complex.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        width = min(len(logits), 8 * len(bits))
        bias = _BIAS.take(bits, axis=0).reshape(-1)[:width]
        logits[:width] += bias
        logits[width:] = -np.inf
        if logits.max() == -np.inf:
            logits[:width] = bias

    def accept(self, token: int) -> None:
        """Go on by a token. Errors: InvalidRequest where the grammar is too complex or did not allow it."""
        self._accepted.append(token)
        self._matcher.consume_token(token)
        self._check()

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return bool(self._matcher.is_accepting())

    def _check(self) -> None:
        if _stuck(self._matcher):
            raise InvalidRequest(
                "the constraint asks for text that the model has no tokens for", reason="CONSTRAINT_IMPOSSIBLE"
            )
        if self._matcher.is_error():
            raise InvalidRequest(f"the constraint {_TOO_COMPLEX}", reason="CONSTRAINT_TOO_COMPLEX")


class Grammars:
    """Compiles grammars for one model, whose logits are `width` wide, and keeps the last ones; used by any thread."""

    def __init__(
        self, tokenizer: Tokenizer, ends: frozenset[int], width: int, compiling: Compiling | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._ends = frozenset(end for end in ends if end < width)
        self._width = width
        self._kept: OrderedDict[Rules, llguidance.LLMatcher] = OrderedDict()
        self._compiling = compiling or Compiling()
        self._lock = self._compiling.mutex()
        self._vocabulary: Vocabulary | None = None

    @property
    def possible(self) -> bool:
        """Whether the tokenizer's tokens have bytes of their own and some token ends a text."""
        return self._tokenizer.pieces is not None and bool(self._ends)

    def mark(self, text: str) -> str:
        """Lark's spelling of a mark of the model's format: a special token's number, or the text."""
        ids = self._tokenizer.ids_of((text,)) & self._tokenizer.special_ids
        return f"<[{min(ids)}]>" if ids else json.dumps(text, ensure_ascii=False)

    def special(self, text: str) -> bool:
        return bool(self._tokenizer.ids_of((text,)) & self._tokenizer.special_ids)

    def compile(self, rules: Rules, field: str) -> TokenGrammar:
        """A grammar at its beginning; takes up to seconds. Errors: InvalidRequest that names `field`, and where."""
        if not self.possible:
            refuse(field, "cannot be enforced: this model's tokens have no text of their own, or none ends a text")
        with self._lock:
            self._vocabulary = self._vocabulary or self._new_vocabulary()
            vocabulary, matcher = self._vocabulary, self._kept.get(rules)
            if matcher is not None:
                self._kept.move_to_end(rules)
        if matcher is None:
            size = len(rules.text.encode("utf-8", "replace")) + len((rules.answer or "").encode("utf-8", "replace"))
            if size > LARGEST:
                refuse(field, f"makes a grammar of {size} bytes; at most {LARGEST} are compiled")
            matcher = self._compiling.deeply(lambda: _compiled(vocabulary, rules, field))
            with self._lock:
                self._kept[rules] = matcher
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return TokenGrammar(vocabulary, rules, matcher.deep_copy())

    def _new_vocabulary(self) -> Vocabulary:
        pieces, special = self._tokenizer.pieces or (), self._tokenizer.special_ids
        return Vocabulary(pieces, special, self._ends, self._width, self._compiling)


def _restored(vocabulary: Vocabulary, rules: Rules, accepted: Sequence[int]) -> TokenGrammar:
    return TokenGrammar(vocabulary, rules, vocabulary.compiling.deeply(lambda: vocabulary.matcher(rules)), accepted)


def _compiled(vocabulary: Vocabulary, rules: Rules, field: str) -> llguidance.LLMatcher:
    """A matcher at its beginning, of which the first step is known to work."""
    matcher = vocabulary.matcher(rules)
    if matcher.is_error():
        refuse(field, _explained(matcher.get_error()))
    first = matcher.deep_copy()
    first.compute_bitmask()
    if _stuck(first):
        refuse(field, "fits no text that the model's tokens could make")
    if first.is_error():
        refuse(field, _TOO_COMPLEX)
    return matcher


def _stuck(matcher: llguidance.LLMatcher) -> bool:
    """Whether no token may come although the text is not complete."""
    return bool(matcher.is_error()) and str(matcher.get_error()).startswith("NoExtension")


_POSITION = re.compile(r"(?:at )?(\d+)\((\d+)\): (.*)", re.DOTALL)
_OF_SCHEMA = "failed to compile JSON schema: "
_LIMITS = ("fuel exhausted", "lexer error", "parser error", "too many")


def _explained(error: str) -> str:
    """The library's message without its excerpts, its options and its limits' names."""
    where, found = "", _POSITION.match(error)
    if found:
        where, error = f" at line {found[1]}, column {found[2]}", found[3]
    if _OF_SCHEMA in error:
        where, error = "", error.partition(_OF_SCHEMA)[2]
    if "schema too large" in error or (not found and any(limit in error for limit in _LIMITS)):
        return _TOO_COMPLEX
    if "recursion limit" in error:
        return "is nested too deeply"
    caret = re.search(r"^    ( *)\^+$", error, re.MULTILINE)
    reason = re.search(r"^error: (.*)$", error, re.MULTILINE)
    if reason:  # of a regular expression, which is shown with a mark below the place
        where = f" at character {len(caret[1]) + 1} of the regular expression" if caret else where
        error = reason[1]
    said = re.split(r"\n|; following|\. Enable| and retrieving|\(at \"| \(in ", error, maxsplit=1)[0].strip()
    return f"cannot be compiled{where}: {said[:300]}"

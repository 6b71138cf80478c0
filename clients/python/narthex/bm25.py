"""Search by words in documents that come and go: Okapi BM25, in plain Python."""

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from heapq import nlargest
from typing import Generic, TypeVar

K1 = 1.2
B = 0.6
"""As in BM25: how soon more of a word counts no more, and how much long documents lose."""

MOST_EXPANDED = 8
"""Known words that one unknown word of a query may stand for, as their beginning."""
LONGEST_WORD = 64
MOST_QUERY_TERMS = 64

_WORD = re.compile(r"[^\W_]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")
_EMPTY = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "been", "by", "can", "do", "does", "for", "from", "had", "has",
    "have", "how", "i", "if", "in", "into", "is", "it", "its", "me", "my", "of", "on", "or", "our", "so", "that",
    "the", "their", "them", "then", "there", "these", "they", "this", "to", "us", "was", "we", "were", "what",
    "when", "where", "which", "who", "will", "with", "you", "your",
))  # fmt: skip
"""Words of a query that say nothing about what is looked for; they count where it has no others."""
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

Key = TypeVar("Key", bound=Hashable)


def terms(text: str) -> Iterator[str]:
    """The words of a text as they are compared: without case and usual English endings, `camelCase` taken apart.

    A word of a script without spaces gives its pairs of characters.
    """
    for word in _WORD.findall(text):
        for part in _HUMP.split(word):
            plain = part.casefold()[:LONGEST_WORD]
            if _UNSPACED.search(plain) and len(plain) > 1:
                yield from (plain[at : at + 2] for at in range(len(plain) - 1))
            else:
                yield _stem(plain)


def weighed(fields: Iterable[tuple[str, float]]) -> Mapping[str, float]:
    """The terms of several texts, each counted with the weight of its text."""
    found: Counter[str] = Counter()
    for text, weight in fields:
        for term in terms(text):
            found[term] += weight  # type: ignore[assignment]  # a Counter holds floats as well
    return found


class Index(Generic[Key]):
    """Documents as weighed terms, by key; adding and removing one costs what it holds, however many there are."""

    def __init__(self) -> None:
        self._documents: dict[Key, tuple[Mapping[str, float], float]] = {}
        self._postings: dict[str, dict[Key, float]] = {}
        self._length = 0.0  # of all documents together

    def __len__(self) -> int:
        return len(self._documents)

    def put(self, key: Key, document: Mapping[str, float]) -> None:
        """Adds a document, in place of the one with this key."""
        self.drop(key)
        length = sum(document.values())
        self._documents[key] = document, length
        self._length += length
        for term, weight in document.items():
            self._postings.setdefault(term, {})[key] = weight

    def drop(self, key: Key) -> None:
        """Removes a document, if it is there."""
        document, length = self._documents.pop(key, ({}, 0.0))
        self._length -= length
        for term in document:
            postings = self._postings[term]
            del postings[key]
            if not postings:
                del self._postings[term]

    def search(self, query: str, limit: int, among: Callable[[Key], bool] = lambda key: True) -> list[Key]:
        """The keys of the documents that fit the query best, at most `limit`, the best first.

        Equal ones come in the order in which they were put. Documents without any word of the query are not found.
        """
        scores: dict[Key, float] = {}
        mean = self._length / len(self._documents) if self._documents else 1.0
        for term, share in self._expanded(query):
            postings = self._postings[term]
            rarity = math.log(1 + (len(self._documents) - len(postings) + 0.5) / (len(postings) + 0.5)) * share
            for key, weight in postings.items():
                norm = K1 * (1 - B + B * self._documents[key][1] / mean)
                scores[key] = scores.get(key, 0.0) + rarity * weight * (K1 + 1) / (weight + norm)
        order = {key: -place for place, key in enumerate(self._documents)} if len(scores) > 1 else {}
        found = (key for key in scores if among(key))
        return nlargest(limit, found, key=lambda key: (round(scores[key], 9), order.get(key, 0)))

    def _expanded(self, query: str) -> Iterator[tuple[str, float]]:
        """The known terms of a query, each with how much it counts."""
        words = list(dict.fromkeys(terms(query)))
        for term in ([word for word in words if word not in _EMPTY] or words)[:MOST_QUERY_TERMS]:
            if term in self._postings:
                yield term, 1.0
            elif len(term) >= 3:
                longer = sorted(known for known in self._postings if known.startswith(term))[:MOST_EXPANDED]
                yield from ((known, 0.5) for known in longer)


def _stem(word: str) -> str:
    """The word without what English adds to it; crude, and the same for documents and queries."""
    if len(word) <= 3 or not word.isascii():
        return word
    if word.endswith("ies"):
        word = word[:-3] + "y"
    elif word.endswith(("sses", "shes", "ches", "xes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and re.search("[aeiouy]", word[: -len(ending)]):
            word = word[: -len(ending)]
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
                word = word[:-1]
            break
    return word[:-1] if len(word) > 4 and word.endswith("e") else word

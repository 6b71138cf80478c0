"""What a rule asks of one place in the arguments."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

from narthex.settings import nearest

from narthex_server.tools.policy.predicate import Judge, Predicate
from narthex_server.tools.policy.selection import MISPLACED, MISSING, Selection
from narthex_server.tools.policy.verdict import Verdict, conjunction, negated

PREDICATES = ("absent", "at_most", "equals", "hosts", "matches", "max_length", "paths_under", "sql")
"""Modules of `predicates`, imported when a rule uses them: a parser of SQL is not small."""

NOT = "not"
MOST_VALUES = 1000
"""Values of one place that are judged; of more nobody can tell."""


class Condition:
    """Judges the values at one place.

    A `granting` rule needs to know: it holds if what is asked is known to be so for every value. Other rules hold if it
    may be so for any of them. `every` says which of the two numbers counts, where the file does.

    Raises ValueError for what the file may not say.
    """

    def __init__(self, path: str, asked: object, *, granting: bool, every: bool | None) -> None:
        self._selection = Selection(path)
        self._every = granting if every is None else every
        self._granting = granting
        self.slow = False
        self._judge = self._compiled(asked)

    def holds(self, arguments: dict[str, Any], directory: str) -> bool:
        """Whether these arguments fulfil it; a value that is missing fulfils no grant but `absent`."""
        values = self._selection.of(arguments)
        if len(values) > MOST_VALUES:
            return not self._granting
        verdicts = (self._judge(value, directory) for value in values)
        if self._every:
            return all(self._suffices(verdict) for verdict in verdicts)
        return any(self._suffices(verdict) for verdict in verdicts)

    def is_unclear(self, arguments: dict[str, Any], directory: str) -> bool:
        """Whether nobody can tell, of some value, if it fulfils it."""
        values = self._selection.of(arguments)
        return len(values) > MOST_VALUES or any(self._judge(value, directory) is None for value in values)

    def _suffices(self, verdict: Verdict) -> bool:
        return verdict is True if self._granting else verdict is not False

    def _compiled(self, asked: object) -> Judge:
        judges = list(self._judges(asked, nested=False))
        if len(judges) == 1:
            return judges[0]
        return lambda value, directory: conjunction(judge(value, directory) for judge in judges)

    def _judges(self, asked: object, *, nested: bool) -> Iterator[Judge]:
        if not isinstance(asked, dict) or not asked:
            raise ValueError(f"must be a table of predicates: {', '.join(PREDICATES)}; or {NOT} with such a table")
        for key, value in cast(Mapping[str, object], asked).items():
            if key == NOT and not nested:
                yield _negation(list(self._judges(value, nested=True)))
            elif key in PREDICATES:
                yield self._predicate(key, value)
            else:
                raise ValueError(f"there is no predicate {key!r}{nearest(key, (*PREDICATES, NOT))}")

    def _predicate(self, key: str, value: object) -> Judge:
        module = cast(Predicate, importlib.import_module(f"{__package__}.predicates.{key}"))
        try:
            judge = module.judge(value)
        except ValueError as error:
            raise ValueError(f"{key} {error}") from None
        self.slow = self.slow or module.SLOW
        if key == "absent":
            return lambda given, directory: None if given is MISPLACED else judge(given, directory)
        missing = None if self._granting else False

        def judged(given: object, directory: str) -> Verdict:
            if given is MISSING:
                return missing
            return None if given is MISPLACED else judge(given, directory)

        return judged


def _negation(judges: list[Judge]) -> Judge:
    return lambda value, directory: negated(conjunction(judge(value, directory) for judge in judges))

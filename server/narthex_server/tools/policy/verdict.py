"""What is known of a condition: it holds, it does not, or nobody can tell."""

from collections.abc import Iterable

Verdict = bool | None
"""None: the value is of another kind than the predicate judges, or can be read in two ways."""


def negated(verdict: Verdict) -> Verdict:
    """What cannot be told stays so."""
    return None if verdict is None else not verdict


def conjunction(verdicts: Iterable[Verdict]) -> Verdict:
    """Kleene's: one that does not hold decides, then one that cannot be told."""
    unknown = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unknown = unknown or verdict is None
    return None if unknown else True

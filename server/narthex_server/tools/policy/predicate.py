"""What a predicate is: a judge of one value, made from what the file says of it."""

from collections.abc import Callable
from typing import Any, Protocol

from narthex_server.tools.policy.verdict import Verdict

Judge = Callable[[Any, str], Verdict]
"""Judges a value; the second is the folder that the server's process runs in, empty where that is not known."""


class Predicate(Protocol):
    """A module of `predicates`; its name is its key in the file."""

    SLOW: bool
    """Whether it takes longer than the event loop should wait."""

    def judge(self, value: object) -> Judge:
        """Raises ValueError, whose text says what the value must be, for one that it does not understand."""

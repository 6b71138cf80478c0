"""Which sequences are given drafts in the next step: those for which that gives more tokens a second."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

from narthex_server.engine.lookup import MOST, Lookup
from narthex_server.engine.pace import Pace, Run
from narthex_server.engine.sequence import Sequence
from narthex_server.engine.slots import Slots

SIZES = (8, 4, 2, 1)
"""Few, because sessions bind buffers for each."""
GAIN = 1.05
"""How much faster it has to be by what is known, which is not exact."""


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that a sequence may go on with, to be verified in a run of its own."""

    sequence: Sequence
    tokens: list[int]


class Speculation:
    """Weighs drafts by what runs were measured to take and by how often each sequence's guesses were right.

    A draft that is tried leaves the batch of those that decode, so it has to gain more than it costs them all.
    """

    def __init__(self, slots: Slots, pace: Pace, enabled: bool) -> None:
        self._slots = slots
        self._pace = pace
        self._enabled = enabled and slots.cuts
        self.drafts = self.proposed = self.accepted = 0

    def choose(self, rows: Rows[Sequence], room: int) -> list[Draft]:
        """Drafts for some of the rows that are to decode; `room` is what the cache can take beyond a token for each."""
        tokens, left = float(len(rows)), len(rows)
        seconds = self._pace.of(Run.DECODE, left) if self._enabled else None
        if seconds is None or not self._may_pay(left, seconds):
            return []
        chosen: list[Draft] = []
        for sequence in rows:
            most = min(MOST, sequence.request.max_tokens - sequence.generated - 1, room)
            if most < 1:
                continue
            if (lookup := sequence.lookup) is None:
                lookup = sequence.lookup = Lookup()
            guessed = lookup.propose(sequence.tokens[: sequence.length], most)
            if not guessed or not self._slots.appends(sequence, len(guessed)):
                continue
            size, more, longer = self._best(lookup.chance, len(guessed), left, seconds, tokens)
            if (tokens + more) * seconds > GAIN * tokens * longer:
                chosen.append(Draft(sequence, guessed[:size]))
                tokens, seconds, left, room = tokens + more, longer, left - 1, room - size
        return chosen

    def tried(self, draft: Draft, accepted: int) -> None:
        """Count a draft of which so many tokens were right."""
        self.drafts += 1
        self.proposed += len(draft.tokens)
        self.accepted += accepted
        if draft.sequence.lookup is not None:
            draft.sequence.lookup.tried(draft.tokens, accepted)

    def _may_pay(self, left: int, seconds: float) -> bool:
        """Whether the best draft, all right, would gain anything beside so many rows; else nobody need look for one."""
        if (left + MOST) * seconds > GAIN * left * self._with(left, seconds, MOST):
            return True
        self._pace.fade(Run.VERIFY, MOST + 1)
        return False

    def _best(self, chance: float, most: int, left: int, seconds: float, tokens: float) -> tuple[int, float, float]:
        """The size with the most tokens a second: it, the right guesses expected, and the seconds of the step then."""
        options = []
        for size in SIZES:
            if size <= most:
                more = sum(chance**place for place in range(1, size + 1))
                options.append((size, more, self._with(left, seconds, size)))
        best = max(options, key=lambda option: (tokens + option[1]) / option[2])
        if (tokens + best[1]) * seconds <= GAIN * tokens * best[2]:
            self._pace.fade(Run.VERIFY, best[0] + 1)
        return best

    def _with(self, left: int, seconds: float, size: int) -> float:
        """Seconds of the step when one of the rows left verifies so many tokens instead."""
        pace = self._pace
        alone = pace.of(Run.DECODE, left) or seconds
        others = (pace.of(Run.DECODE, left - 1) or 0.0) if left > 1 else 0.0
        return seconds - alone + others + (pace.of(Run.VERIFY, size + 1) or pace.of(Run.DECODE, 1) or alone)

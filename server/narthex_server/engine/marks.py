"""States of slots as they were after some of their tokens."""

from dataclasses import dataclass

from narthex_server.engine.decoder import DecoderSession, Saved

FEWEST, MOST, BYTES = 2, 8, 1 << 26
"""Marks of one slot: as many as take so many bytes, but a prompt's and an answer's, and no more than help."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The state of a slot after its first `length` tokens."""

    length: int
    state: Saved


class Marks:
    """Where a session has states, the places from which a slot's tokens can be gone on from; there are few of them."""

    def __init__(self, session: DecoderSession) -> None:
        self._session = session
        self._most = min(max(BYTES // max(session.state_bytes, 1), FEWEST), MOST)
        self._of: dict[int, list[Mark]] = {}
        """By slot, the shortest first; none is empty."""

    @property
    def slots(self) -> list[int]:
        """Those that have marks."""
        return [*self._of]

    def save(self, slot: int, length: int) -> None:
        """Marks the state after `length` tokens, unless that is marked already."""
        marks = self._of.setdefault(slot, [])
        if not marks or marks[-1].length < length:
            marks.append(Mark(length, self._session.save(slot)))
        if len(marks) > self._most:
            # The last two are a prompt's end and an answer's; of the others that whose neighbours are closest goes.
            before = [0, *(mark.length for mark in marks)]
            del marks[min(range(len(marks) - 2), key=lambda index: marks[index + 1].length - before[index])]

    def last(self, slot: int, most: int) -> Mark | None:
        """The longest of a slot's marks of at most so many tokens."""
        return max(self._within(slot, most), key=lambda mark: mark.length, default=None)

    def copy(self, source: int, target: int, most: int) -> None:
        """Gives a slot another one's marks, or its own, of at most so many tokens."""
        self._put(target, self._within(source, most))

    def move(self, source: int, target: int) -> None:
        """Gives a slot all marks of another one, which has none then."""
        self._put(target, self._of.pop(source, []))

    def drop(self, slot: int) -> None:
        self._of.pop(slot, None)

    def _within(self, slot: int, most: int) -> list[Mark]:
        return [mark for mark in self._of.get(slot, ()) if mark.length <= most]

    def _put(self, slot: int, marks: list[Mark]) -> None:
        self.drop(slot)
        if marks:
            self._of[slot] = marks

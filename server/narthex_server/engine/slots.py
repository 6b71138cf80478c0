"""Which sequence or kept prefix each cache slot holds, and how rows stay neighbours.

Why gaps are first tolerated and then closed: docs/adr/0006-slot-range.md.
"""

from collections.abc import Hashable
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narthex_server.engine.decoder import DecoderSession, Saved
from narthex_server.engine.sequence import Sequence

DEAD_ROW_TOKENS = 1024
"""Tokens that can be copied in the time that one dead row costs in one step (measured, see the ADR)."""

REUSE_MIN = 8
"""A shorter common prefix is not worth giving up, or copying from, another request's cache."""

FEWEST_MARKS, MOST_MARKS, MARK_BYTES = 2, 8, 1 << 26
"""Saved states of one slot: as many as take so many bytes, but a prompt's and an answer's, and no more than help."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The tokens that an idle slot still holds."""

    tokens: NDArray[np.int64]
    kind: Hashable


@dataclass(frozen=True, slots=True)
class Mark:
    """The state of a slot after its first `length` tokens."""

    length: int
    state: Saved


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first `length` tokens of a slot, and the state after them where the session has states."""

    slot: int
    length: int
    mark: Mark | None = None


class Slots:
    """The slot table; an idle slot keeps the tokens of its last sequence until a request needs the place.

    Where a session has states, a prefix can be reused only up to a mark: states are saved while prompts are computed.
    """

    def __init__(self, session: DecoderSession) -> None:
        self._session = session
        self.held = np.zeros(session.slots, np.int32)
        """Cached tokens of each slot. The decode of a dead row writes at this position: behind what the slot keeps."""
        self.active: dict[int, Sequence] = {}
        self._kept: dict[int, Kept] = {}
        """By slot, least recently used first."""
        self._marks: dict[int, list[Mark]] = {}
        self._most_marks = min(max(MARK_BYTES // max(session.state_bytes, 1), FEWEST_MARKS), MOST_MARKS)
        self._debt = 0
        self.moves = 0

    @property
    def kept(self) -> int:
        return len(self._kept)

    @property
    def free(self) -> int:
        return len(self.held) - len(self.active)

    @property
    def held_back(self) -> int:
        """Tokens at a prompt's end that are not prefilled, so that a mark lies before the one that is decoded."""
        return 1 if self._session.state_bytes else 0

    def take(self, sequence: Sequence) -> None:
        """Gives the sequence a slot, with the longest known prefix of its prompt in it; needs a free one."""
        prefix = self._longest(sequence)
        source, common = (prefix.slot, prefix.length) if prefix else (-1, 0)
        marks = [mark for mark in self._marks.get(source, ()) if mark.length <= common]
        slot = self._place(source, common)
        if slot != source:
            if slot in self._kept:
                self._drop(slot)
            if common:
                self._session.copy(source, slot, common)
                if source in self._kept:
                    self._kept[source] = self._kept.pop(source)  # used just now
        if prefix and prefix.mark:
            self._session.restore(slot, prefix.mark.state)
        self._kept.pop(slot, None)
        self._marks[slot] = marks
        self._settle(sequence, slot)
        sequence.cached, sequence.reused = common, common
        self.held[slot] = common

    def give(self, sequence: Sequence, keep: bool) -> None:
        """Takes the slot back; `keep` its content for reuse unless it is not to be trusted."""
        slot, sequence.slot = sequence.slot, -1
        del self.active[slot]
        if keep and self._session.state_bytes:
            self._save(slot, sequence.cached)
        length = min(sequence.cached, self._session.max_len - 1) if keep else 0  # a dead row needs one position
        self.held[slot] = length
        if length >= REUSE_MIN:
            self._kept[slot] = Kept(sequence.tokens[:length].copy(), sequence.kind)
        else:
            self._drop(slot)

    def advance(self, sequence: Sequence, count: int) -> None:
        """Notes that `count` more of the sequence's tokens are cached."""
        sequence.cached += count
        self.held[sequence.slot] = sequence.cached

    def mark(self, sequence: Sequence) -> None:
        """Saves the state after a part of a prompt, for prompts that begin like it."""
        if self._session.state_bytes:
            self._save(sequence.slot, sequence.cached)

    def close_gaps(self, rows: Rows[Sequence]) -> None:
        """Moves rows together once their gaps have cost as much as the move does."""
        taken = sorted(row.slot for row in rows)
        if not taken or taken[-1] - taken[0] + 1 == len(taken):
            self._debt = 0
            return
        self._debt += (taken[-1] - taken[0] + 1 - len(taken)) * DEAD_ROW_TOKENS
        gaps = [slot for slot in range(taken[0], taken[-1]) if slot not in self.active]
        if not gaps:  # only sequences that are still in their prompt: they will join
            return
        edge = taken[0] if taken[1] - taken[0] > taken[-1] - taken[-2] else taken[-1]
        gap = min(gaps, key=lambda slot: (slot in self._kept, int(self.held[slot])))
        refuge = self._refuge(gap)
        cost = int(self.held[edge]) + (int(self.held[gap]) if refuge is not None else 0)
        if self._debt >= cost:
            self._debt = 0
            self._move(edge, gap, refuge)

    def _move(self, edge: int, gap: int, refuge: int | None) -> None:
        if refuge is not None:
            self._session.copy(gap, refuge, int(self.held[gap]))
            self._kept[refuge], self.held[refuge] = self._kept.pop(gap), self.held[gap]
            self._marks[refuge] = self._marks.pop(gap, [])
        self._drop(gap)
        sequence = self.active[edge]
        self._session.copy(edge, gap, sequence.cached)
        del self.active[edge]
        self._settle(sequence, gap)
        self.held[gap] = sequence.cached
        self._marks[gap] = self._marks.pop(edge, [])
        self._drop(edge)
        self.moves += 1

    def _settle(self, sequence: Sequence, slot: int) -> None:
        sequence.slot = slot
        self.active[slot] = sequence
        if (places := self._session.adapters) is not None:
            places.choose(slot, sequence.mixture.blend if sequence.mixture else np.zeros(places.capacity, np.float32))

    def _refuge(self, gap: int) -> int | None:
        """An empty slot for what the gap keeps; None when it keeps nothing, or there is none and it is given up."""
        if gap not in self._kept:
            return None
        return next((s for s in range(len(self.held)) if s not in self.active and s not in self._kept), None)

    def _longest(self, sequence: Sequence) -> Prefix | None:
        """The longest common prefix that can be reused, short of the prompt's last token."""
        prompt = sequence.tokens[: sequence.length - 1]
        best: Prefix | None = None
        for other, tokens in self._contents(sequence.kind):
            size = min(len(prompt), len(tokens))
            differs = (prompt[:size] != tokens[:size]).nonzero()[0]
            common = int(differs[0]) if len(differs) else size
            found = self._reusable(other, common)
            if found.length >= REUSE_MIN and (
                best is None or found.length > best.length or (found.length == best.length and other in self._kept)
            ):
                best = found
        return best

    def _reusable(self, slot: int, common: int) -> Prefix:
        """So much of a slot's first `common` tokens as can be gone on from."""
        if not self._session.state_bytes:
            return Prefix(slot, common)
        marks = [mark for mark in self._marks.get(slot, ()) if mark.length <= common]
        return Prefix(slot, marks[-1].length, marks[-1]) if marks else Prefix(slot, 0)

    def _save(self, slot: int, length: int) -> None:
        marks = self._marks.setdefault(slot, [])
        if not marks or marks[-1].length < length:
            marks.append(Mark(length, self._session.save(slot)))
        if len(marks) > self._most_marks:
            # The last two are a prompt's end and an answer's; of the others that whose neighbours are closest goes.
            before = [0, *(mark.length for mark in marks)]
            del marks[min(range(len(marks) - 2), key=lambda index: marks[index + 1].length - before[index])]

    def _contents(self, kind: Hashable) -> list[tuple[int, NDArray[np.int64]]]:
        kept = [(slot, kept.tokens) for slot, kept in self._kept.items() if kept.kind == kind]
        running = [(slot, s.tokens[: s.cached]) for slot, s in self.active.items() if s.kind == kind]
        return [*kept, *running]

    def _place(self, source: int, common: int) -> int:
        """In place if that loses nothing, else an empty slot near the others, else the oldest kept one."""
        if source in self._kept and common == len(self._kept[source].tokens):
            return source
        empty = [slot for slot in range(len(self.held)) if slot not in self.active and slot not in self._kept]
        if empty:
            low, high = min(self.active, default=0), max(self.active, default=0)
            return min(empty, key=lambda slot: (max(high, slot) - min(low, slot), slot))
        if source in self._kept:
            return source
        return next(iter(self._kept))

    def _drop(self, slot: int) -> None:
        self._kept.pop(slot, None)
        self._marks.pop(slot, None)
        self.held[slot] = 0
        self._session.release(slot)

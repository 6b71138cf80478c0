"""Which sequence or kept prefix each cache slot holds, and how rows stay neighbours.

Why gaps are first tolerated and then closed: docs/adr/0006-slot-range.md.
"""

from collections.abc import Sequence as Rows

import numpy as np
from numpy.typing import NDArray

from narthex_server.engine.decoder import DecoderSession
from narthex_server.engine.sequence import Sequence

DEAD_ROW_TOKENS = 1024
"""Tokens that can be copied in the time that one dead row costs in one step (measured, see the ADR)."""

REUSE_MIN = 8
"""A shorter common prefix is not worth giving up, or copying from, another request's cache."""


class Slots:
    """The slot table; an idle slot keeps the tokens of its last sequence until a request needs the place."""

    def __init__(self, session: DecoderSession) -> None:
        self._session = session
        self.held = np.zeros(session.slots, np.int32)
        """Cached tokens of each slot. The decode of a dead row writes at this position: behind what the slot keeps."""
        self.active: dict[int, Sequence] = {}
        self._kept: dict[int, NDArray[np.int64]] = {}
        """By slot, least recently used first."""
        self._debt = 0
        self.moves = 0

    @property
    def kept(self) -> int:
        return len(self._kept)

    @property
    def free(self) -> int:
        return len(self.held) - len(self.active)

    def take(self, sequence: Sequence) -> None:
        """Gives the sequence a slot, with the longest known prefix of its prompt in it; needs a free one."""
        source, common = self._longest(sequence)
        slot = self._place(sequence, source, common)
        if slot != source:
            if slot in self._kept:
                self._drop(slot)
            if common:
                self._session.copy(source, slot, common)
                if source in self._kept:
                    self._kept[source] = self._kept.pop(source)  # used just now
        self._kept.pop(slot, None)
        sequence.slot, sequence.cached, sequence.reused = slot, common, common
        self.active[slot] = sequence
        self.held[slot] = common

    def give(self, sequence: Sequence, keep: bool) -> None:
        """Takes the slot back; `keep` its content for reuse unless it is not to be trusted."""
        slot, sequence.slot = sequence.slot, -1
        del self.active[slot]
        length = min(sequence.cached, self._session.max_len - 1) if keep else 0  # a dead row needs one position
        self.held[slot] = length
        if length >= REUSE_MIN:
            self._kept[slot] = sequence.tokens[:length].copy()
        else:
            self._drop(slot)

    def advance(self, sequence: Sequence, count: int) -> None:
        """Notes that `count` more of the sequence's tokens are cached."""
        sequence.cached += count
        self.held[sequence.slot] = sequence.cached

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
        self._drop(gap)
        sequence = self.active[edge]
        self._session.copy(edge, gap, sequence.cached)
        self.active[gap], self.held[gap] = self.active.pop(edge), sequence.cached
        sequence.slot = gap
        self._drop(edge)
        self.moves += 1

    def _refuge(self, gap: int) -> int | None:
        """An empty slot for what the gap keeps; None when it keeps nothing, or there is none and it is given up."""
        if gap not in self._kept:
            return None
        return next((s for s in range(len(self.held)) if s not in self.active and s not in self._kept), None)

    def _longest(self, sequence: Sequence) -> tuple[int, int]:
        """The slot with the longest common prefix, and its length, short of the prompt's last token."""
        prompt = sequence.tokens[: sequence.length - 1]
        best, slot = 0, -1
        for other, tokens in self._contents():
            size = min(len(prompt), len(tokens))
            differs = (prompt[:size] != tokens[:size]).nonzero()[0]
            common = int(differs[0]) if len(differs) else size
            if common > best or (common == best and other in self._kept):
                best, slot = common, other
        return (slot, best) if best >= REUSE_MIN else (-1, 0)

    def _contents(self) -> list[tuple[int, NDArray[np.int64]]]:
        running = [(slot, sequence.tokens[: sequence.cached]) for slot, sequence in self.active.items()]
        return [*self._kept.items(), *running]

    def _place(self, sequence: Sequence, source: int, common: int) -> int:
        """In place if that loses nothing, else an empty slot near the others, else the oldest kept one."""
        if source in self._kept and common == len(self._kept[source]):
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
        self.held[slot] = 0
        self._session.release(slot)

"""Which sequence or kept prefix each cache slot holds, how rows stay neighbours, and how much all may hold.

Why gaps are first tolerated and then closed: docs/adr/0006-slot-range.md; the budget: docs/adr/0009-budget.md.
"""

from collections.abc import Hashable
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narthex_server.engine.decoder import DecoderSession
from narthex_server.engine.marks import Mark, Marks
from narthex_server.engine.sequence import Leader, Sequence

DEAD_ROW_TOKENS = 1024
"""Tokens that can be copied in the time that one dead row costs in one step (measured, see the ADR)."""

REUSE_MIN = 8
"""A shorter common prefix is not worth giving up, or copying from, another request's cache."""

WAIT_MIN = 32
"""Tokens that another sequence is computing: as many more than are there already are worth waiting for."""

HEADROOM = 16
"""Tokens that each sequence should be able to add before the budget is used up, or none is let in beside it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The tokens that an idle slot still holds."""

    tokens: NDArray[np.int64]
    kind: Hashable


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first `length` tokens of a slot, and the state after them where the session has states."""

    slot: int
    length: int
    mark: Mark | None = None


class Slots:
    """The slot table; an idle slot keeps the tokens of its last sequence until a request needs the place.

    Where a session has states, a prefix can be reused only up to a mark: states are saved while prompts are computed.
    Sequences count against the `budget` with all their known tokens, cached yet or not; what is kept makes room.
    """

    def __init__(self, session: DecoderSession, budget: int | None = None) -> None:
        self._session = session
        self.budget = min(budget or session.slots * session.max_len, session.slots * session.max_len)
        self.held = np.zeros(session.slots, np.int32)
        """Cached tokens of each slot. The decode of a dead row writes at this position: behind what the slot keeps."""
        self.active: dict[int, Sequence] = {}
        self._kept: dict[int, Kept] = {}
        """By slot, least recently used first."""
        self.marks = Marks(session)
        self._debt = 0
        self.moves = 0
        self.found = 0
        """Prompt tokens that were in the cache when their request came."""

    @property
    def kept(self) -> int:
        return len(self._kept)

    @property
    def free(self) -> int:
        return len(self.held) - len(self.active)

    @property
    def used(self) -> int:
        """Tokens that the active sequences have cached, or will have before they add another one."""
        return sum([sequence.length for sequence in self.active.values()])

    @property
    def cuts(self) -> bool:
        """Whether a slot can forget its last tokens, and be given several at once where it used to be given one."""
        return self._session.appends and not self._session.state_bytes

    def fits(self, sequence: Sequence, without: Rows[Sequence] = ()) -> bool:
        """Whether there is a slot for it, and room for its tokens without any other having to go but those."""
        others = len(self.active) - len(without)
        if others == len(self.held):
            return False
        used = self.used - sum([one.length for one in without])
        return used + sequence.length + HEADROOM * (others + 1) <= self.budget or not others

    def trim(self, more: int = 0, spare: int = -1) -> None:
        """Gives up what was used least recently, but the slot to spare, until the rest and `more` tokens fit."""
        if not self._kept:
            return
        over = self.used + more + sum([len(kept.tokens) for kept in self._kept.values()]) - self.budget
        for slot in [*self._kept] if over > 0 else ():
            if over > 0 and slot != spare:
                over -= len(self._kept[slot].tokens)
                self._drop(slot)

    def appends(self, sequence: Sequence, more: int = 0) -> bool:
        """Whether its generated tokens, and so many more, can be cached like a part of its prompt."""
        if not self._session.appends:
            return False
        classed = self._session.prefix_class
        return classed(len(sequence.request.prompt)) == classed(sequence.length + more)

    @property
    def held_back(self) -> int:
        """Tokens at a prompt's end that are not prefilled, so that a mark lies before the one that is decoded."""
        return 1 if self._session.state_bytes else 0

    def take(self, sequence: Sequence) -> None:
        """Gives the sequence a slot, with the longest known prefix of its tokens in it; needs a free one that fits.

        Where another sequence is computing a longer one, the slot is empty until `follow` is asked.
        """
        prefix = self._longest(sequence)
        sequence.leader = self._leader(sequence, prefix.length if prefix else 0)
        if prefix is None or sequence.leader:
            prefix = Prefix(-1, 0)
        self.trim(sequence.length - (prefix.length if self._whole(prefix) else 0), prefix.slot)
        slot = self._place(prefix, self.used + sequence.length)
        if slot != prefix.slot and slot in self._kept:
            self._drop(slot)
        if prefix.length:
            self._reuse(sequence, prefix, slot)
        if slot == prefix.slot and self.held[slot] > prefix.length:
            self._session.release(slot, prefix.length)
        self._kept.pop(slot, None)
        self._settle(sequence, slot)
        self.held[slot] = sequence.cached = prefix.length

    def follow(self, sequence: Sequence) -> bool:
        """Whether a sequence with a leader can go on: with what that one computed, or alone if it is gone."""
        if (leader := sequence.leader) is None:
            return True
        ahead = leader.sequence
        if ahead.slot >= 0 and ahead.pending > 1 and ahead.cached < leader.common:
            return False
        prefix = self._longest(sequence)
        sequence.leader = self._leader(sequence, prefix.length if prefix else 0)
        if sequence.leader:
            return False
        if prefix:
            self._reuse(sequence, prefix, sequence.slot)
            self.held[sequence.slot] = sequence.cached = prefix.length
        return True

    def give(self, sequence: Sequence, keep: bool) -> None:
        """Takes the slot back; `keep` its content for reuse unless it is not to be trusted."""
        slot, sequence.slot, cached = sequence.slot, -1, sequence.cached
        sequence.leader, sequence.cached = None, 0
        del self.active[slot]
        length = min(cached, self._session.max_len - 1) if keep else 0  # a dead row needs one position
        if length < REUSE_MIN:
            self._drop(slot)
            return
        if self._session.state_bytes:
            self.marks.save(slot, cached)
        self._kept[slot] = Kept(sequence.tokens[:length].copy(), sequence.kind)
        self.held[slot] = length

    def audit(self) -> list[str]:
        """What is not as it has to be while nothing runs; empty when all is well."""
        wrong = [f"slot {slot} is held by {sequence.key}, which is gone" for slot, sequence in self.active.items()]
        for slot, held in enumerate(self.held.tolist()):
            if held != (expected := len(self._kept[slot].tokens) if slot in self._kept else 0):
                wrong.append(f"slot {slot} holds {held} tokens, not {expected}")
        wrong += [f"slot {slot} has marks and keeps nothing" for slot in self.marks.slots if slot not in self._kept]
        if (total := int(self.held.sum())) > self.budget:
            wrong.append(f"{total} tokens are cached, of {self.budget} that may be")
        return wrong

    def reset(self) -> None:
        """Forgets everything."""
        self.active.clear()
        for slot in range(len(self.held)):
            self._drop(slot)

    def advance(self, sequence: Sequence, count: int) -> None:
        """Notes that `count` more of the sequence's tokens are cached."""
        sequence.cached += count
        self.held[sequence.slot] = sequence.cached

    def mark(self, sequence: Sequence) -> None:
        """Saves the state after a part of a prompt, for prompts that begin like it."""
        if self._session.state_bytes:
            self.marks.save(sequence.slot, sequence.cached)

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
            self.marks.move(gap, refuge)
        self._drop(gap)
        sequence = self.active[edge]
        self._session.copy(edge, gap, sequence.cached)
        del self.active[edge]
        self._settle(sequence, gap)
        self.held[gap] = sequence.cached
        self.marks.move(edge, gap)
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
            found = self._reusable(other, _common(prompt, tokens))
            if found.length >= REUSE_MIN and (
                best is None or found.length > best.length or (found.length == best.length and other in self._kept)
            ):
                best = found
        return best

    def _reusable(self, slot: int, common: int) -> Prefix:
        """So much of a slot's first `common` tokens as can be gone on from."""
        if not self._session.state_bytes:
            return Prefix(slot, common)
        mark = self.marks.last(slot, common)
        return Prefix(slot, mark.length, mark) if mark else Prefix(slot, 0)

    def _leader(self, sequence: Sequence, found: int) -> Leader | None:
        """Who is computing so much more of the sequence's prompt than was found that it is worth waiting for."""
        best: Leader | None = None
        for other in self.active.values():
            if other is sequence or other.pending <= 1 or other.leader or other.kind != sequence.kind:
                continue
            common = _common(sequence.tokens[: sequence.length - 1], other.tokens[: other.length])
            if common >= (best.common + 1 if best else found + WAIT_MIN):
                best = Leader(other, common)
        return best

    def _reuse(self, sequence: Sequence, prefix: Prefix, slot: int) -> None:
        """Puts a prefix in the slot, which may be its own, and counts it."""
        source, common = prefix.slot, prefix.length
        if slot != source:
            self._session.copy(source, slot, common)
            if source in self._kept:
                self._kept[source] = self._kept.pop(source)  # used just now
        if prefix.mark:
            self._session.restore(slot, prefix.mark.state)
        self.marks.copy(source, slot, common)
        if not sequence.preempted:
            sequence.reused = common
            self.found += common

    def _contents(self, kind: Hashable) -> list[tuple[int, NDArray[np.int64]]]:
        kept = [(slot, kept.tokens) for slot, kept in self._kept.items() if kept.kind == kind]
        running = [(slot, s.tokens[: s.cached]) for slot, s in self.active.items() if s.kind == kind]
        return [*kept, *running]

    def _whole(self, prefix: Prefix) -> bool:
        """Whether it is all that an idle slot keeps."""
        return prefix.slot in self._kept and prefix.length == self.held[prefix.slot]

    def _place(self, prefix: Prefix, used: int) -> int:
        """In place if that loses nothing, else an empty slot near the others, else the oldest kept one.

        In place also where a copy would not fit: `used` are the tokens of all active sequences then.
        """
        source = prefix.slot
        if self._whole(prefix) or (source in self._kept and used + int(self.held[source]) > self.budget):
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
        self.marks.drop(slot)
        self.held[slot] = 0
        self._session.release(slot)


def _common(tokens: NDArray[np.int64], others: NDArray[np.int64]) -> int:
    """How many tokens two texts have in common from the beginning."""
    size = min(len(tokens), len(others))
    differs = (tokens[:size] != others[:size]).nonzero()[0]
    return int(differs[0]) if len(differs) else size

"""Who runs in the next step."""

from dataclasses import dataclass

from narthex_server.engine.line import Line, yields
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.pace import Pace, Run
from narthex_server.engine.request import Urgency
from narthex_server.engine.sequence import Sequence
from narthex_server.engine.slots import Slots
from narthex_server.engine.speculation import Draft, Speculation

SMALLEST = 4
"""Prompt tokens that a step takes however long that is: fewer cost nearly as much, for all keys so far are read."""
STALL = 2.0
"""How long a part of a prompt may take beside running streams, whose next tokens it delays, in decode steps."""
GROWTH = 1.5
"""What twice the tokens take at least: a size that was not tried for a while knows nothing of the tokens since."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `size` prompt tokens of a sequence."""

    sequence: Sequence
    size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: one token for each of `rows`, drafts to verify, and prompt chunks within the budget."""

    rows: list[Sequence]
    drafts: list[Draft]
    chunks: list[Chunk]


class Scheduler:
    """First come, first served: into slots, to the budget of prompt tokens, and last to be sent back.

    Urgent requests go before others, into the slots of the least urgent ones if need be.
    """

    def __init__(self, slots: Slots, pace: Pace, speculation: Speculation, options: EngineOptions) -> None:
        self.slots = slots
        self.waiting = Line()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._pace = pace
        self._speculation = speculation
        self._most = options.prefill_tokens
        self._pause = options.longest_pause

    def find(self, key: int) -> Sequence | None:
        found = (s for group in (self.running, self.waiting) for s in group if s.key == key)
        return next(found, None)

    @property
    def next(self) -> Sequence | None:
        """The sequence that can be admitted; None if none waits, or there is no room for the first."""
        first = self.waiting.first
        return first if first is not None and self.slots.fits(first) else None

    def make_way(self) -> None:
        """Sends back the youngest of low urgency where the first that waits is urgent and fits without them.

        Each is sent back for a few others only, so that it ends however many urgent ones come.
        """
        first = self.waiting.first
        if first is None or first.request.urgency is not Urgency.HIGH or self.slots.fits(first):
            return
        going: list[Sequence] = []
        for sequence in filter(_gives_way, reversed(self.running)):
            going.append(sequence)
            if self.slots.fits(first, without=going):
                break
        else:
            return
        self.waiting.leave(first)
        for sequence in going:
            sequence.yielded += 1
            self._send_back(sequence)
        self.waiting.rejoin(first)

    def admit(self, now: float) -> Sequence | None:
        """Moves the next sequence into a slot; None if there is none."""
        sequence = self.next
        if sequence is None:
            return None
        self.waiting.leave(sequence)
        if sequence.admitted is None:
            sequence.admitted = now
        self.running.append(sequence)
        self.slots.take(sequence)
        return sequence

    def remove(self, sequence: Sequence, keep: bool) -> None:
        """Forgets the sequence; its slot is free from here on."""
        if sequence not in self.running:
            self.waiting.leave(sequence)
            return
        self.running.remove(sequence)
        if sequence.slot >= 0:
            self.slots.give(sequence, keep)

    def schedule(self) -> Plan:
        self._make_room()
        rows: list[Sequence] = []
        prompts: list[Sequence] = []
        for sequence in self.running:
            if not sequence.leader:
                (rows if sequence.pending == 1 or self._replays(sequence) else prompts).append(sequence)
        budget = self._budget(len(rows)) if rows else self._most
        chunks: list[Chunk] = []
        for sequence in prompts:
            if budget > 0:
                chunks.append(Chunk(sequence, min(self._ahead(sequence), budget)))
                budget -= chunks[-1].size
        drafts = self._speculation.choose(rows, self.slots.budget - self.slots.used) if rows else []
        if drafts:
            drafted = {draft.sequence.key for draft in drafts}
            rows = [sequence for sequence in rows if sequence.key not in drafted]
        return Plan(rows, drafts, chunks)

    def _make_room(self) -> None:
        """Sends the youngest back to the line until the rest fits; the oldest stays, so that something always ends.

        If that is urgent, the youngest of low urgency goes in its place, a few times.
        """
        while self.slots.used > self.slots.budget and len(self.running) > 1:
            sequence = self.running[-1]
            if sequence.request.urgency is Urgency.HIGH:
                sequence = next(filter(_gives_way, reversed(self.running)), sequence)
                sequence.yielded += 1
            self._send_back(sequence)
        self.slots.trim()

    def _send_back(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.waiting.rejoin(sequence)
        sequence.preempted = True
        self.preemptions += 1
        self.slots.give(sequence, keep=True)

    def _replays(self, sequence: Sequence) -> bool:
        """Whether it is to decode again, one by one, tokens that it generated before it was sent back."""
        return (
            sequence.preempted and sequence.cached >= len(sequence.request.prompt) and not self.slots.appends(sequence)
        )

    def _ahead(self, sequence: Sequence) -> int:
        """How many tokens its next chunk may have."""
        most = sequence.pending - self.slots.held_back
        if sequence.preempted and not self.slots.appends(sequence):
            most = min(most, len(sequence.request.prompt) - sequence.cached)
        if self.slots.held_back:  # whoever follows can go on only from where a chunk ends
            ends = [
                s.leader.common - sequence.cached for s in self.running if s.leader and s.leader.sequence is sequence
            ]
            most = min([most, *(end for end in ends if end > 0)])
        return most

    def _budget(self, rows: int) -> int:
        """Prompt tokens beside running streams: a power of two, because sessions bind buffers for each size."""
        longest = max(STALL * (self._pace.of(Run.DECODE, rows) or 0.0), self._pause)
        size, known = SMALLEST, self._pace.known(Run.CHUNK, SMALLEST)
        seconds = known or 0.0
        while known is not None and 2 * size <= self._most:  # sizes are tried one after the other
            known = self._pace.known(Run.CHUNK, 2 * size)
            seconds = max(known or 0.0, GROWTH * seconds)
            if seconds > longest:
                self._pace.fade(Run.CHUNK, 2 * size)
                break
            size *= 2
        return min(size, self._most)


def _gives_way(sequence: Sequence) -> bool:
    return sequence.request.urgency is Urgency.LOW and yields(sequence)

"""Who runs in the next step."""

from collections import deque
from dataclasses import dataclass

from narthex_server.engine.options import EngineOptions
from narthex_server.engine.sequence import Sequence
from narthex_server.engine.slots import Slots

SMALLEST = 16
"""Prompt tokens that a step takes however slow the model is: fewer cost nearly as much time."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `size` prompt tokens of a sequence."""

    sequence: Sequence
    size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: one token for each of `rows`, and prompt chunks within the budget."""

    rows: list[Sequence]
    chunks: list[Chunk]


class Scheduler:
    """First come, first served: into slots, and to the budget of prompt tokens."""

    def __init__(self, slots: Slots, options: EngineOptions) -> None:
        self.slots = slots
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._options = options
        self._speed = 0.0

    def find(self, key: int) -> Sequence | None:
        found = (s for group in (self.running, self.waiting) for s in group if s.key == key)
        return next(found, None)

    def admit(self, now: float) -> Sequence | None:
        """Moves the first waiting sequence into a slot; None if there is no sequence or no slot."""
        if not self.waiting or not self.slots.free:
            return None
        sequence = self.waiting.popleft()
        sequence.admitted = now
        self.running.append(sequence)
        self.slots.take(sequence)
        return sequence

    def remove(self, sequence: Sequence, keep: bool) -> None:
        """Forgets the sequence; its slot is free from here on."""
        if sequence.admitted is None:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        if sequence.slot >= 0:
            self.slots.give(sequence, keep)

    def schedule(self) -> Plan:
        rows = [sequence for sequence in self.running if sequence.pending == 1]
        chunks, budget = [], self._budget() if rows else self._options.prefill_tokens
        for sequence in self.running:
            if sequence.pending > 1 and budget > 0:
                size = min(sequence.pending - self.slots.held_back, budget)
                chunks.append(Chunk(sequence, size))
                budget -= size
        return Plan(rows, chunks)

    def timed(self, chunk: Chunk, seconds: float) -> None:
        """Learns how fast prompts are computed."""
        speed = chunk.size / max(seconds, 1e-6)
        self._speed = 0.7 * self._speed + 0.3 * speed if self._speed else speed

    def _budget(self) -> int:
        """Prompt tokens beside running streams: a power of two, because sessions bind buffers for each size."""
        wanted = int(self._speed * self._options.prefill_seconds)
        rounded = 1 << max(wanted, SMALLEST).bit_length() - 1
        return min(rounded, self._options.prefill_tokens)

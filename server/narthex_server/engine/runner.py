"""Runs a plan on the session."""

from collections.abc import Sequence as Rows

import numpy as np

from narthex_server.engine.decoder import DecoderSession, Logits
from narthex_server.engine.scheduler import Chunk
from narthex_server.engine.sequence import Sequence
from narthex_server.engine.slots import Slots


class Runner:
    """Turns sequences into the session's arrays and notes what got cached; counts the dead rows it computed."""

    def __init__(self, session: DecoderSession, slots: Slots) -> None:
        self._session = session
        self._slots = slots
        self.dead_rows = 0

    def decode(self, rows: Rows[Sequence]) -> list[Logits]:
        """The logits [vocab] after each row's pending token, valid until the next call."""
        self._slots.close_gaps(rows)
        places = [row.slot for row in rows]
        first, count = min(places), max(places) - min(places) + 1
        live = np.array(places, np.int64) - first
        tokens = np.zeros(count, np.int64)
        tokens[live] = [row.tokens[row.cached] for row in rows]
        logits = self._session.decode(first, tokens, self._slots.held[first : first + count].copy(), live)
        for row in rows:
            self._slots.advance(row, 1)
        self.dead_rows += count - len(rows)
        return [*logits]

    def prefill(self, chunk: Chunk) -> Logits | None:
        """The logits [vocab] after the prompt, valid until the next call; None if more of it is to come."""
        sequence, size = chunk.sequence, chunk.size
        last = np.array([size - 1] if size == sequence.pending else [], np.int64)
        tokens = sequence.tokens[sequence.cached : sequence.cached + size]
        known = len(sequence.request.prompt)
        logits = self._session.prefill(sequence.slot, tokens, sequence.cached, last, known)
        self._slots.advance(sequence, size)
        self._slots.mark(sequence)
        return logits[0] if len(last) else None

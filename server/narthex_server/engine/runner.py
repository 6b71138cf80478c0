"""Runs a plan on the session."""

from collections.abc import Sequence as Rows

import numpy as np

from narthex_server.engine.decoder import DecoderSession, Logits
from narthex_server.engine.scheduler import Chunk
from narthex_server.engine.sequence import Sequence
from narthex_server.engine.slots import Slots

SCORED_ROWS = 64
"""Tokens of a prompt that are computed together where each of them needs its logits: a row has as many as there are
tokens in the vocabulary."""
NONE = np.zeros(0, np.int64)


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
        sequence = chunk.sequence
        whole = chunk.size == sequence.pending
        end = sequence.cached + chunk.size
        while sequence.cached < end:
            logits = self._compute(sequence, end - sequence.cached, whole)
        self._slots.mark(sequence)
        return logits[-1] if whole else None

    def _compute(self, sequence: Sequence, size: int, whole: bool) -> Logits:
        """The next `size` tokens, or fewer where many are to be scored; the last row is that after all of them."""
        past, known = sequence.cached, len(sequence.request.prompt)
        scored = sequence.scored.rows(past, size) if sequence.scored else NONE
        if len(scored):
            size = min(size, SCORED_ROWS)
            scored = scored[scored < size]
        wanted = np.union1d(scored, [size - 1] if whole else NONE)
        logits = self._session.prefill(sequence.slot, sequence.tokens[past : past + size], past, wanted, known)
        if sequence.scored is not None:
            for row in range(len(scored)):
                sequence.scored.add(logits[row])
        self._slots.advance(sequence, size)
        return logits

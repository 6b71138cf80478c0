"""Runs a plan on the session."""

import time
from collections.abc import Sequence as Rows

import numpy as np

from narthex_server.engine.decoder import DecoderSession, Logits
from narthex_server.engine.pace import Pace, Run
from narthex_server.engine.scheduler import Chunk
from narthex_server.engine.sequence import Sequence
from narthex_server.engine.slots import Slots
from narthex_server.engine.speculation import Draft

SCORED_ROWS = 64
"""Tokens of a prompt that are computed together where each of them needs its logits: a row has as many as there are
tokens in the vocabulary."""
NONE = np.zeros(0, np.int64)


class Runner:
    """Turns sequences into the session's arrays and notes what got cached and how long it took; counts dead rows."""

    def __init__(self, session: DecoderSession, slots: Slots, pace: Pace) -> None:
        self._session = session
        self._slots = slots
        self._pace = pace
        self.dead_rows = 0

    def decode(self, rows: Rows[Sequence]) -> list[Logits | None]:
        """The logits [vocab] after each row's next token, valid until the next call; None if more of them are known."""
        self._slots.close_gaps(rows)
        places = [row.slot for row in rows]
        first, count = min(places), max(places) - min(places) + 1
        live = np.array(places, np.int64) - first
        tokens = np.zeros(count, np.int64)
        tokens[live] = [row.tokens[row.cached] for row in rows]
        lengths = self._slots.held[first : first + count].copy()
        begun = time.monotonic()
        logits = self._session.decode(first, tokens, lengths, live)
        self._pace.note(Run.DECODE, len(rows), time.monotonic() - begun)
        for row in rows:
            self._slots.advance(row, 1)
        self.dead_rows += count - len(rows)
        return [row_logits if row.pending == 0 else None for row, row_logits in zip(rows, logits, strict=True)]

    def verify(self, draft: Draft) -> Logits:
        """The logits [1 + tokens of the draft, vocab] after the pending token and each of the draft's.

        Nothing is noted as cached: how many are right is not known yet.
        """
        sequence = draft.sequence
        tokens = np.array([sequence.tokens[sequence.cached], *draft.tokens], np.int64)
        known = len(sequence.request.prompt)
        begun = time.monotonic()
        logits = self._session.prefill(sequence.slot, tokens, sequence.cached, np.arange(len(tokens)), known)
        self._pace.note(Run.VERIFY, len(tokens), time.monotonic() - begun)
        return logits

    def prefill(self, chunk: Chunk) -> Logits | None:
        """The logits [vocab] after the prompt, valid until the next call; None if more of it is to come."""
        sequence = chunk.sequence
        whole = chunk.size == sequence.pending
        end = sequence.cached + chunk.size
        begun = time.monotonic()
        while sequence.cached < end:
            logits = self._compute(sequence, end - sequence.cached, whole)
        self._pace.note(Run.CHUNK, chunk.size, time.monotonic() - begun)
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

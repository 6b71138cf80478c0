"""The slot table of keys and values, which the batching loop changes and request threads look at."""

from collections.abc import Sequence as Rows

import numpy as np
from narthex_server.engine.decoder import DecoderSession
from narthex_server.engine.sequence import Sequence
from narthex_server.engine.slots import Slots
from narthex_server.errors import ContextOverflow
from narthex_server.sync.locks import Locks
from numpy.typing import NDArray


class KvCache:
    """The engine's own table of slots with a lock around each of its verbs; nothing is computed under the lock.

    Only copies of cached prefixes are made under it, for the slot that they come from must not be given away meanwhile.
    """

    def __init__(self, session: DecoderSession, budget: int | None, locks: Locks) -> None:
        self._slots = Slots(session, budget)
        self._lock = locks.mutex("kv_cache")
        self.budget = self._slots.budget
        self.context = min(session.max_len, self.budget)
        self.cuts = self._slots.cuts
        self.held_back = self._slots.held_back
        self.appends = self._slots.appends  # of the session alone, which does not change

    def check(self, tokens: int) -> None:
        """Whether so many tokens can ever fit; what request threads ask. Errors: ContextOverflow."""
        with self._lock:
            if tokens > self.context:
                raise ContextOverflow(f"{tokens} tokens exceed the context of {self.context}", metadata={})

    @property
    def used(self) -> int:
        with self._lock:
            return self._slots.used

    @property
    def held(self) -> NDArray[np.int32]:
        with self._lock:
            return self._slots.held.copy()

    def fits(self, sequence: Sequence) -> bool:
        with self._lock:
            return self._slots.fits(sequence)

    def take(self, sequence: Sequence) -> None:
        with self._lock:
            self._slots.take(sequence)

    def follow(self, sequence: Sequence) -> bool:
        with self._lock:
            return self._slots.follow(sequence)

    def give(self, sequence: Sequence, keep: bool) -> None:
        with self._lock:
            self._slots.give(sequence, keep)

    def trim(self) -> None:
        with self._lock:
            self._slots.trim()

    def close_gaps(self, rows: Rows[Sequence]) -> None:
        with self._lock:
            self._slots.close_gaps(rows)

    def advance(self, sequence: Sequence, count: int) -> None:
        with self._lock:
            self._slots.advance(sequence, count)

    def mark(self, sequence: Sequence) -> None:
        with self._lock:
            self._slots.mark(sequence)

"""The state of sampling of all requests: their generators, penalties and grammars."""

from narthex_server.engine.decoder import Logits
from narthex_server.engine.sampling.sampler import Sampler
from narthex_server.engine.sequence import Sequence
from narthex_server.sync.locks import Locks


class SamplingStates:
    """Request threads bring a state and take it away; the batching loop draws with those that are there."""

    def __init__(self, locks: Locks) -> None:
        self._lock = locks.mutex("sampling")
        self._states: dict[int, Sampler] = {}

    def begin(self, sequence: Sequence) -> None:
        with self._lock:
            self._states[sequence.key] = sequence.sampler

    def draw(self, sequence: Sequence, logits: Logits) -> int | None:
        """The sequence's next token; None where its request is gone."""
        with self._lock:
            if (state := self._states.get(sequence.key)) is None:
                return None
            return state.choose(logits, sequence.tokens[: sequence.length])

    def end(self, key: int) -> None:
        with self._lock:
            self._states.pop(key, None)

"""What the engine asks of a loaded decoder; the sessions in runtime/ have this shape."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]
Lengths = NDArray[np.int32]
Rows = NDArray[np.int64]
Logits = NDArray[np.float32]
Saved = Any
"""A slot's state at one moment; only the session that made it knows what is in it."""
Blend = NDArray[np.float32]


class AdapterPlaces(Protocol):
    """Places for adapters in a session; `check` may be called from any thread, the rest from the session's."""

    @property
    def capacity(self) -> int: ...

    def check(self, adapter: Any) -> None:
        """Errors: FailedPrecondition for another model's adapter, ResourceExhausted for one beyond the limits."""
        ...

    def load(self, place: int, adapter: Any) -> None:
        """Puts a checked adapter in an empty place."""
        ...

    def unload(self, place: int) -> None: ...

    def choose(self, slot: int, blend: Blend) -> None:
        """From here on a slot computes with so much [capacity] of the adapter in each place."""
        ...


class DecoderSession(Protocol):
    """One decoder with `slots` rows of key/value cache of `max_len` positions each, used by one thread at a time.

    Logits are views that the next call overwrites.
    """

    @property
    def slots(self) -> int: ...

    @property
    def max_len(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def adapters(self) -> AdapterPlaces | None:
        """None without room for adapters."""
        ...

    @property
    def state_bytes(self) -> int:
        """The size of what a slot holds beside its cache and cannot be cut back to fewer tokens; 0 for nothing."""
        ...

    @property
    def token_bytes(self) -> int:
        """What a slot's memory grows by with each token."""
        ...

    @property
    def appends(self) -> bool:
        """Whether a prefill of generated tokens gives what the decode of each one gives."""
        ...

    def decode(self, first: int, tokens: Tokens, lengths: Lengths, live: Rows) -> Logits:
        """One token for each of B neighbouring slots: logits [R, vocab] of the `live` ones, offsets 0 to B-1.

        Row i is slot first+i, which holds lengths[i] tokens; its token's key and value land at position lengths[i].
        The states of rows that are not live stay as they are.
        """
        ...

    def prefill(self, slot: int, tokens: Tokens, past: int, rows: Rows, known: int) -> Logits:
        """A chunk of S tokens after the `past` that the slot holds: logits [R, vocab] of its `rows` (R may be 0).

        `known` counts the whole prompt, whatever part of it the chunk is.
        """
        ...

    def prefix_class(self, length: int) -> int:
        """The class of a prompt of this length: prompts of different classes share no cached prefix."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens' keys and values to another slot, and the state as it is."""
        ...

    def save(self, slot: int) -> Saved:
        """The slot's state now."""
        ...

    def restore(self, slot: int, saved: Saved) -> None:
        """Puts a slot, which holds the tokens that were cached when it was saved, into that state."""
        ...

    def release(self, slot: int, length: int = 0) -> None:
        """Gives the memory behind a slot's first `length` tokens back to the operating system."""
        ...

    def close(self) -> None:
        """Frees everything; no call may follow."""
        ...

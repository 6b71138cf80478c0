"""What the engine asks of a loaded decoder; the sessions in runtime/ have this shape."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]
Lengths = NDArray[np.int32]
Logits = NDArray[np.float32]


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

    def decode(self, first: int, tokens: Tokens, lengths: Lengths) -> Logits:
        """One token for each of B neighbouring slots: logits [B, vocab].

        Row i is slot first+i, which holds lengths[i] tokens; its token's key and value land at position lengths[i].
        """
        ...

    def prefill(self, slot: int, tokens: Tokens, past: int, rows: Tokens) -> Logits:
        """A chunk of S tokens after the `past` that the slot holds: logits [R, vocab] of its `rows` (R may be 0)."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` tokens' keys and values to another slot."""
        ...

    def release(self, slot: int) -> None:
        """Gives the slot's memory back to the operating system; its content is gone."""
        ...

    def close(self) -> None:
        """Frees everything; no call may follow."""
        ...

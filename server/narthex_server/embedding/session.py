"""What embedding asks of a loaded encoder; the sessions in runtime/ have this shape."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Hidden = NDArray[np.float32]
Tokens = NDArray[np.int64]
Lengths = NDArray[np.int32]


class EncoderSession(Protocol):
    """One encoder of texts of at most `max_len` tokens, used by one thread at a time."""

    @property
    def max_len(self) -> int: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def alone(self) -> bool:
        """Whether a text has to be encoded by itself because others in the batch would change its values."""
        ...

    def encode(self, tokens: Tokens, lengths: Lengths) -> Hidden:
        """Hidden states [B, S, hidden] of tokens [B, S]; those past a row's length mean nothing."""
        ...

    def close(self) -> None:
        """Frees everything; no call may follow."""
        ...

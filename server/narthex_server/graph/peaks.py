"""How large a layer's keys and values become, which scales caches of int8."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_LARGEST = 127


@dataclass(frozen=True, slots=True)
class Peaks:
    """The absolute maxima of a layer's rotated keys and values, float32 [kv_heads, size], all above 0.

    `pairs` [kv_heads, size/2] are those of the lengths of two keys that rotate together where all of a head does.
    """

    keys: Floats
    pairs: Floats
    values: Floats

    def units(self, rotated: int) -> tuple[Floats, Floats]:
        """What one unit of each channel of keys and values means, [kv_heads*size]; `rotated` values of a head turn."""
        half, size = rotated // 2, self.keys.shape[1]
        pairs = self.pairs if rotated == size else np.hypot(self.keys[:, :half], self.keys[:, half:rotated])
        # At some position all of a pair lies in either of its channels.
        keys = np.concatenate((pairs, pairs, self.keys[:, rotated:]), axis=1) if rotated else self.keys
        return _units(keys), _units(self.values)


def _units(peaks: Floats) -> Floats:
    return (peaks / _LARGEST).astype(np.float32).ravel()

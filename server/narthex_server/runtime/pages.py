"""Zeroed memory that costs nothing until it is written."""

import mmap
import sys
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

PAGE = mmap.PAGESIZE
_NORESERVE = 0x4000  # Linux: MAP_NORESERVE; reserving more than the machine has is the point


class Pages:
    """A private anonymous range of at least `size` bytes; the system commits single pages as they are first written.

    Huge pages would commit the whole range, so they are refused where the system has them.
    """

    def __init__(self, size: int) -> None:
        size = max(-(-size // PAGE) * PAGE, PAGE)
        if sys.platform == "linux":
            self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
            self._map.madvise(mmap.MADV_NOHUGEPAGE)
        else:
            self._map = mmap.mmap(-1, size)

    def array(self, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """View the range as numbers; the view keeps it alive."""
        return np.frombuffer(self._map, dtype, int(np.prod(shape))).reshape(shape)

    def forget(self, start: int, size: int) -> None:
        """Give the whole pages within these bytes back to Linux: they read as zero afterwards; elsewhere do nothing."""
        first, last = -(-start // PAGE) * PAGE, (start + size) // PAGE * PAGE
        if sys.platform == "linux" and last > first:
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

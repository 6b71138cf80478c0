"""What a decoder remembers of each slot: keys and values by position, and states that are replaced whole."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from narthex_server.runtime.pages import Pages

Extents = Sequence[int | str]
Numbers = NDArray[np.floating[Any]]
Saved = tuple[Numbers, ...]


@dataclass(frozen=True, slots=True)
class Buffer:
    """One buffer [slots, ...]; `name` is that of the graph's input, `new_` + it that of the output."""

    name: str
    pages: Pages
    rows: Numbers

    def forget(self, slot: int, length: int) -> None:
        """Give back a slot's positions from `length` on, which lie apart for each head."""
        size, head = self.rows[0].nbytes, self.rows[0, 0].nbytes
        if length == 0:
            self.pages.forget(slot * size, size)
            return
        begin = length * self.rows[0, 0, 0].nbytes
        for start in range(slot * size, (slot + 1) * size, head):
            self.pages.forget(start + begin, head - begin)


class SlotCache:
    """`positions` [slots, kv_heads, max_len, size] grow in place; `states` [slots, ...] are those after the last token.

    A state cannot be cut back to fewer tokens, only be saved and restored.
    """

    def __init__(self, inputs: Iterable[tuple[str, Extents, DTypeLike]], slots: int, max_len: int) -> None:
        """Reserve buffers for those inputs of a graph whose first extent is `slots`."""
        self.slots = slots
        extents: dict[int | str, int | str] = {"slots": slots, "max_len": max_len}
        self.positions: list[Buffer] = []
        self.states: list[Buffer] = []
        for name, shape, dtype in inputs:
            full = tuple(int(extents.get(extent, extent)) for extent in shape)
            pages = Pages(int(np.prod(full)) * np.dtype(dtype).itemsize)
            buffers = self.positions if "max_len" in shape else self.states
            buffers.append(Buffer(name, pages, pages.array(full, dtype)))

    @property
    def state_bytes(self) -> int:
        """The size of a slot's states."""
        return sum(buffer.rows[0].nbytes for buffer in self.states)

    @property
    def token_bytes(self) -> int:
        """What each token takes of a slot's memory."""
        return sum(buffer.rows[0].nbytes // buffer.rows.shape[2] for buffer in self.positions)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions, and the states as they are."""
        for buffer in self.positions:
            buffer.rows[target, :, :length] = buffer.rows[source, :, :length]
        for buffer in self.states:
            buffer.rows[target] = buffer.rows[source]

    def save(self, slot: int) -> Saved:
        """Copy a slot's states."""
        return tuple(buffer.rows[slot].copy() for buffer in self.states)

    def restore(self, slot: int, saved: Saved) -> None:
        for buffer, rows in zip(self.states, saved, strict=True):
            buffer.rows[slot] = rows

    def reset(self, slot: int) -> None:
        """Put the states before the first token."""
        for buffer in self.states:
            buffer.rows[slot] = 0

    def release(self, slot: int, length: int = 0) -> None:
        """Give the memory of a slot's positions behind the first `length` back to the system."""
        for buffer in self.positions:
            buffer.forget(slot, length)

    def close(self) -> None:
        self.positions.clear()
        self.states.clear()

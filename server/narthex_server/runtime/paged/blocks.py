"""Which blocks of paged caches belong to whom."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Each of `slots` has `per_slot` blocks of `size` tokens for good, one behind the other.

    So a slot's memory is there from the start, and no sequence ever has to make room for another.
    """

    slots: int
    per_slot: int
    size: int

    @classmethod
    def holding(cls, slots: int, tokens: int, size: int) -> Self:
        """Enough blocks for `tokens` in each slot."""
        return cls(slots, -(-tokens // size), size)

    @property
    def count(self) -> int:
        return self.slots * self.per_slot

    @property
    def capacity(self) -> int:
        """Tokens that the blocks of a slot hold."""
        return self.per_slot * self.size

    def table(self, slots: Integers) -> NDArray[np.int32]:
        """The blocks of these slots [N, per_slot], in the order of their tokens."""
        return (slots[:, None] * self.per_slot + np.arange(self.per_slot)).astype(np.int32)

    def places(self, slots: Integers, positions: Integers) -> NDArray[np.int32]:
        """Where in all blocks together the tokens at these positions of these slots lie."""
        return (slots * self.capacity + positions).astype(np.int32)

    def used(self, tokens: int) -> int:
        """How many blocks that many tokens of a slot are in, its first ones."""
        return -(-tokens // self.size)

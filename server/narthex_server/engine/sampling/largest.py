"""The largest of many numbers, without sorting or partitioning all of them."""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
Indices = NDArray[np.intp]

_BLOCK = 256
_FEW = 8
"""Blocks for each number that is wanted: with fewer, their maxima say too little."""


def largest(values: Values, count: int) -> Indices:
    """The indices, ascending, of the `count` largest of values [N], 0 < count <= N; of equal ones the first.

    Costs one pass over the values: the count-th largest of the maxima of blocks is a bound that few values reach.
    """
    block = min(_BLOCK, len(values) // (count * _FEW))
    if block < 2:
        return at_least(values, float(np.partition(values, -count)[-count]), count)
    maxima = np.maximum.reduceat(values, np.arange(0, len(values), block))
    found = np.flatnonzero(values >= np.partition(maxima, -count)[-count])
    few = values.take(found)
    return found.take(at_least(few, float(np.partition(few, -count)[-count]), count))


def at_least(values: Values, worst: float, count: int) -> Indices:
    """The indices, ascending, of the `count` largest of values [N], of which the least is `worst`."""
    found = np.flatnonzero(values >= np.float32(worst))
    if len(found) == count:
        return found
    kept = values.take(found)
    above, equal = found[kept > worst], found[kept == worst]
    return np.sort(np.concatenate((above, equal[: count - len(above)])))


def heaviest(weights: Values, share: float) -> Indices:
    """The indices, ascending, of the fewest largest of weights [N] >= 0 that make up `share` (below 1) of their sum.

    Halves by the mean what the border may lie in, so that a flat distribution over a large vocabulary is not sorted.
    """
    total = float(weights.sum())
    wanted, count = share * total, 0
    pool = weights.take(np.flatnonzero(weights >= np.float32((1 - share) * total / len(weights))))
    while len(pool) > _BLOCK:
        pivot = pool.mean()
        heavy = pool.take(np.flatnonzero(pool >= pivot))
        if not 0 < len(heavy) < len(pool):  # all are equal, but for rounding
            break
        mass = float(heavy.sum())
        if mass >= wanted:
            pool = heavy
        else:
            wanted, count = wanted - mass, count + len(heavy)
            pool = pool.take(np.flatnonzero(pool < pivot))
    ordered = np.sort(pool)[::-1]
    last = min(int(ordered.cumsum(dtype=np.float64).searchsorted(wanted)), len(ordered) - 1)
    return at_least(weights, float(ordered[last]), count + last + 1)

"""Scales that lose the least: least squares over the roundings that nearby scales give.

Blocks are columns here, float32 [values of a block, blocks], so that sums over a block are sums of whole rows. The
error is that of the weights themselves, each counting the same: what a product with uncorrelated inputs loses.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_STEPS = tuple(float(step) for step in np.linspace(-1.0, 1.0, 17))
"""How many steps of the grid the largest value is moved by, to see whether the others fall on it better."""


def inverse(divisors: Floats) -> Floats:
    """1/x; 0 where that is too large for a float32: what is divided is then as good as zero."""
    with np.errstate(divide="ignore", over="ignore"):
        result = np.float32(1) / divisors
    result[~np.isfinite(result)] = 0
    return result


def symmetric(x: Floats, levels: int) -> Floats:
    """The scales [blocks] for which scale * q, with q from -levels to levels-1, is nearest to x."""
    at = np.abs(x).argmax(axis=0)
    over_extreme = inverse(np.take_along_axis(x, at[None], axis=0)[0])
    best = np.zeros(x.shape[1], np.float32)
    scales = np.zeros_like(best)
    q, product = np.empty_like(x), np.empty_like(x)
    for step in _STEPS:
        # The extreme goes to -levels: the side that has one value more.
        np.multiply(x, -(levels + step) * over_extreme, out=q)
        np.rint(q, out=q)
        np.maximum(q, -levels, out=q)
        np.minimum(q, levels - 1, out=q)
        xq = np.multiply(x, q, out=product).sum(axis=0)
        qq = np.multiply(q, q, out=product).sum(axis=0)
        candidate = xq * inverse(qq)
        gain = xq * candidate  # what this scale takes off the sum of squares
        better = gain > best
        best[better] = gain[better]
        scales[better] = candidate[better]
    return scales


def affine(x: Floats, levels: int) -> tuple[Floats, Floats]:
    """The scales and minima [blocks] for which scale * q - minimum, q from 0 to levels, is nearest; none negative."""
    size = np.float32(len(x))
    low = np.minimum(x.min(axis=0), 0)
    shifted = x - low
    over_range = inverse(shifted.max(axis=0))
    sum_x = x.sum(axis=0)
    best = np.full(x.shape[1], -np.inf, np.float32)
    scales, minima = np.zeros_like(best), np.zeros_like(best)
    q, product = np.empty_like(x), np.empty_like(x)
    for step in _STEPS:
        np.multiply(shifted, (levels + step) * over_range, out=q)
        np.rint(q, out=q)
        np.minimum(q, levels, out=q)
        sum_q = q.sum(axis=0)
        qq = np.multiply(q, q, out=product).sum(axis=0)
        xq = np.multiply(x, q, out=product).sum(axis=0)
        over_determinant = inverse(size * qq - sum_q * sum_q)
        scale = (size * xq - sum_x * sum_q) * over_determinant
        minimum = (scale * sum_q - sum_x) / size
        alone = minimum < 0  # then the best one allowed is 0
        scale = np.where(alone, xq * inverse(qq), scale)
        minimum = np.where(alone, 0, minimum)
        gain = 2 * (scale * xq - minimum * sum_x) - scale * scale * qq + minimum * (2 * scale * sum_q - size * minimum)
        better = gain > best
        best[better] = gain[better]
        scales[better] = scale[better]
        minima[better] = minimum[better]
    return scales, minima

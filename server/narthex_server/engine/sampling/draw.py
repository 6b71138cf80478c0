"""The next token from a row of logits."""

import math

import numpy as np
from numpy.typing import NDArray

from narthex_server.engine.decoder import Logits
from narthex_server.engine.request import Sampling
from narthex_server.engine.sampling.largest import Values, heaviest, largest

COLDEST = 1e-6
"""Below this temperature every draw is the best token, and division leaves float32."""
_BLOCK = 256
_SLACK = 1e-3
"""What rounding may move a logit by, in units of the temperature, against its weight."""


class BadLogits(ArithmeticError):
    """The model gave a row without a finite maximum."""


def sample(logits: Logits, sampling: Sampling, generator: np.random.Generator) -> int:
    """Draws from logits [vocab] by temperature, top_k, top_p, min_p in that order; raises BadLogits."""
    best = int(logits.argmax())
    top = float(logits[best])
    if not math.isfinite(top):  # argmax finds a NaN first, so this sees every bad row
        raise BadLogits(f"logits {best} is {top}")
    if sampling.temperature < COLDEST or sampling.top_k == 1:
        return best
    ids: NDArray[np.intp] | None = None
    if 0 < sampling.top_k < len(logits):
        ids = largest(logits, sampling.top_k)
    elif sampling.min_p > 0 and sampling.top_p == 1:  # what is certainly too light need not be weighed
        ids = np.flatnonzero(logits >= top + sampling.temperature * (math.log(sampling.min_p) - _SLACK))
    weights = _weights(logits if ids is None else logits.take(ids), top, sampling.temperature)
    if sampling.top_p < 1:
        kept = heaviest(weights, sampling.top_p)
        ids, weights = kept if ids is None else ids.take(kept), weights.take(kept)
    if sampling.min_p > 0:
        weights *= weights >= np.float32(sampling.min_p)  # the best weight is 1
    drawn = _draw(weights, generator.random())
    return drawn if ids is None else int(ids[drawn])


def _weights(logits: Logits, top: float, temperature: float) -> Values:
    """Probabilities times a constant: that of the best is 1."""
    with np.errstate(over="ignore", under="ignore"):
        weights = np.subtract(logits, np.float32(top))
        weights /= np.float32(temperature)
        return np.exp(weights, out=weights)


def _draw(weights: Values, uniform: float) -> int:
    """The index that a number in [0, 1) falls on: first its block, then its place there."""
    starts = np.arange(0, len(weights), _BLOCK)
    block, rest = _fall(np.add.reduceat(weights, starts), uniform)
    first = int(starts[block])
    return first + _fall(weights[first : first + _BLOCK], rest)[0]


def _fall(weights: Values, uniform: float) -> tuple[int, float]:
    """The index that it falls on, and how far into it, in [0, 1)."""
    mass = weights.cumsum(dtype=np.float64)
    point = uniform * float(mass[-1])
    index = int(mass.searchsorted(point, side="right"))
    if index == len(mass) or weights[index] == 0:  # rounding points past the last that can be drawn
        return int(weights.nonzero()[0][-1]), 1.0
    below = float(mass[index - 1]) if index else 0.0
    return index, min((point - below) / float(weights[index]), 1.0)

"""The next token from a row of logits."""

import numpy as np
from numpy.typing import NDArray

from narthex_server.engine.decoder import Logits
from narthex_server.engine.request import Sampling

COLDEST = 1e-6
"""Below this temperature every draw is the best token, and division leaves float32."""


class BadLogits(ArithmeticError):
    """The model gave a row without a finite maximum."""


def sample(logits: Logits, sampling: Sampling, generator: np.random.Generator) -> int:
    """Draws from logits [vocab] by temperature, top_k, top_p, min_p in that order; raises BadLogits."""
    best = int(logits.argmax())
    if not np.isfinite(logits[best]):  # argmax finds a NaN first, so this sees every bad row
        raise BadLogits(f"logits {best} is {logits[best]}")
    if sampling.temperature < COLDEST or sampling.top_k == 1:
        return best
    ids: NDArray[np.intp] | None = None
    if 0 < sampling.top_k < len(logits):
        ids = _largest(logits, float(np.partition(logits, -sampling.top_k)[-sampling.top_k]), sampling.top_k)
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp(((logits if ids is None else logits[ids]) - logits[best]) / np.float32(sampling.temperature))
    if sampling.top_p < 1:
        total = float(weights.sum(dtype=np.float64))
        tail = (1 - sampling.top_p) * total / len(weights)  # all lighter ones together are less than top_p cuts off
        ordered = np.sort(weights[weights >= np.float32(tail)])[::-1]
        mass = ordered.cumsum(dtype=np.float64)
        count = min(int(mass.searchsorted(sampling.top_p * total)) + 1, len(ordered))
        kept = _largest(weights, float(ordered[count - 1]), count)
        ids, weights = kept if ids is None else ids[kept], weights[kept]
    if sampling.min_p > 0:
        weights = np.where(weights >= np.float32(sampling.min_p), weights, 0)  # the best weight is 1
    mass = weights.cumsum(dtype=np.float64)
    drawn = int(mass.searchsorted(generator.random() * mass[-1], side="right"))
    drawn = min(drawn, int(weights.nonzero()[0][-1]))  # rounding may point past the last candidate
    return drawn if ids is None else int(ids[drawn])


def _largest(values: NDArray[np.float32], worst: float, count: int) -> NDArray[np.intp]:
    """The indices of the `count` largest values, of which the least is `worst`; equal ones by index."""
    above, equal = np.flatnonzero(values > worst), np.flatnonzero(values == worst)
    return np.sort(np.concatenate((above, equal[: count - len(above)])))

"""The next token from a row of logits."""

import numpy as np
from numpy.typing import NDArray

from narthex_server.engine.decoder import Logits
from narthex_server.engine.request import Sampling

HEAD = 1024
"""Candidates sorted first for top_p: they nearly always hold its mass; sorting a whole vocabulary costs 10 ms."""


class BadLogits(ArithmeticError):
    """The model gave a row without a finite maximum."""


def sample(logits: Logits, sampling: Sampling, generator: np.random.Generator) -> int:
    """Draws from logits [vocab] by temperature, top_k, top_p, min_p in that order; raises BadLogits."""
    best = int(logits.argmax())
    if not np.isfinite(logits[best]):  # argmax finds a NaN first, so this sees every bad row
        raise BadLogits(f"logits {best} is {logits[best]}")
    if sampling.temperature == 0 or sampling.top_k == 1:
        return best
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((logits.astype(np.float64) - float(logits[best])) / sampling.temperature)
    ids = _candidates(weights, sampling)
    kept = weights if ids is None else weights[ids]
    if sampling.min_p > 0:
        kept = np.where(kept >= sampling.min_p, kept, 0.0)  # the best weight is 1
    mass = kept.cumsum()
    drawn = int(mass.searchsorted(generator.random() * mass[-1], side="right"))
    drawn = min(drawn, int(kept.nonzero()[0][-1]))  # rounding may point past the last candidate
    return drawn if ids is None else int(ids[drawn])


def _candidates(weights: NDArray[np.float64], sampling: Sampling) -> NDArray[np.intp] | None:
    """The ids that top_k and top_p leave, best first; None for all."""
    top_k = sampling.top_k if 0 < sampling.top_k < len(weights) else 0
    if sampling.top_p >= 1:
        return _best(weights, top_k) if top_k else None
    ids = _best(weights, top_k or min(HEAD, len(weights)))
    total = float(weights[ids].sum()) if top_k else float(weights.sum())
    mass = weights[ids].cumsum()
    if mass[-1] < sampling.top_p * total and not top_k:
        ids = _best(weights, len(weights))
        mass = weights[ids].cumsum()
    return ids[: int(mass.searchsorted(sampling.top_p * total)) + 1]


def _best(weights: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """The ids of the `count` largest weights, largest first, equal ones by id."""
    if count >= len(weights):
        return np.argsort(-weights, kind="stable")
    worst = np.partition(weights, -count)[-count]
    above, equal = np.flatnonzero(weights > worst), np.flatnonzero(weights == worst)
    return np.concatenate((above[np.argsort(-weights[above], kind="stable")], equal[: count - len(above)]))

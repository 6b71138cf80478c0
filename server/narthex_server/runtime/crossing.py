"""From how many tokens on the second of two graphs is the faster one."""

import time

import numpy as np

from narthex_server.runtime.stepper import Stepper, Tokens

WIDTHS = (2, 3, 4, 6, 8)
"""Numbers of tokens that are tried; small models need more than large ones."""
_TRIALS = 3
_ROW = np.zeros(1, np.int64)


def crossing(few: Stepper, many: Stepper, most: int) -> int:
    """The first of these widths, up to `most`, at which `many` takes less time here, or the last; overwrites slot 0."""
    for width in (width for width in WIDTHS if width <= most):
        # In turns, and the best of some: what else the machine does must not decide. The first run makes buffers.
        trials = [(_seconds(few, width), _seconds(many, width)) for _ in range(1 + _TRIALS)]
        of_few, of_many = map(min, zip(*trials[1:], strict=True))
        if of_many < of_few:
            return width
    return WIDTHS[-1]


def _seconds(stepper: Stepper, width: int) -> float:
    none, known = np.zeros(1, np.int32), np.array([width], np.int32)
    tokens = Tokens(0, np.zeros((1, width), np.int64), none, known, _ROW, _ROW)
    begun = time.perf_counter()
    stepper.run(tokens)
    return time.perf_counter() - begun

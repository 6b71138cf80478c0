"""The pauses between attempts to connect."""

import math
import random

STABLE = 10.0
"""Seconds after which a connection counts as good, so that the next failure is retried soon."""

_FIRST, _LAST = 0.5, 30.0
_DOUBLINGS = 6  # which are beyond the last one


def pause(attempts: int) -> float:
    """Seconds until the next attempt, after so many that failed; at random, so that not all come back at once."""
    return min(_LAST, math.ldexp(_FIRST, min(attempts - 1, _DOUBLINGS))) * random.uniform(0.5, 1.0)

"""How long runs take, learnt from those that were made."""

from enum import Enum

FASTER, SLOWER = 0.5, 0.2
"""How much of a mean is the latest measurement: whatever else the machine does only makes runs slower."""
OUTLIER = 2.0
"""How many means a measurement counts at most: more was the machine's doing."""
FADING = 0.998
"""What a mean is multiplied by each time it speaks against a run, so that one bad measurement is not for ever."""


class Run(Enum):
    """What a run computes, and what its size counts."""

    DECODE = "rows"
    VERIFY = "tokens of a draft, and the one before it"
    CHUNK = "tokens of a prompt"


class Pace:
    """Running means of seconds, by kind and size of a run."""

    def __init__(self) -> None:
        self._means: dict[Run, dict[int, float]] = {kind: {} for kind in Run}

    def note(self, kind: Run, size: int, seconds: float) -> None:
        means = self._means[kind]
        mean = means.get(size, seconds)
        seconds = min(seconds, OUTLIER * mean)
        means[size] = mean + (FASTER if seconds < mean else SLOWER) * (seconds - mean)

    def known(self, kind: Run, size: int) -> float | None:
        """Seconds of such a run; None if none was made."""
        return self._means[kind].get(size)

    def of(self, kind: Run, size: int) -> float | None:
        """Seconds of such a run; of one that was never made what it takes at least, so that it is tried.

        Those of the next smaller one, or its share of the next larger; None if no run of the kind was made.
        """
        means = self._means[kind]
        if (mean := means.get(size)) is not None or not means:
            return mean
        if smaller := [known for known in means if known < size]:
            return means[max(smaller)]
        larger = min(means)
        return means[larger] * size / larger

    def fade(self, kind: Run, size: int) -> None:
        """Trust a measurement a little less that has just been an argument against a run."""
        means = self._means[kind]
        if size in means:
            means[size] *= FADING

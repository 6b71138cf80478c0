"""What work will probably take of something, from what such work took."""

FIRST = 128
"""What is guessed before anything is known, in tokens: a short answer."""
WEIGHT = 0.1
"""Of the newest in the means."""


class Estimate:
    """The mean of what was taken, and how far from it that usually was."""

    def __init__(self, first: int = FIRST) -> None:
        self._mean = float(first)
        self._spread = 0.0

    def within(self, most: int) -> int:
        """What the next will take that takes `most` in any case: what most take, at least 1."""
        return max(min(round(self._mean + self._spread), most), 1)

    def learn(self, taken: int, cut: bool) -> None:
        """What one took; one that was `cut` off would have taken more, which tells nothing if it is less than usual."""
        if cut and taken < self._mean:
            return
        self._spread += WEIGHT * (abs(taken - self._mean) - self._spread)
        self._mean += WEIGHT * (taken - self._mean)

"""What is said once."""

from collections.abc import Hashable


class Once:
    """Tells what was not said yet, up to a bound after which nothing is new: logs are not for servers to fill."""

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._said: set[Hashable] = set()

    def first(self, thing: Hashable) -> bool:
        """Whether this is new; it is not any more after that."""
        if thing in self._said or len(self._said) >= self._most:
            return False
        self._said.add(thing)
        return True

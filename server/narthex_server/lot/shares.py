"""What each tenant has had of a pool."""

from collections import Counter
from collections.abc import Mapping

MOST_REMEMBERED = 1000
"""Tenants that are gone and had more than the others; with more of them those that had less are forgotten."""


class Shares:
    """Tells whose turn it is: the tenant's that has had least for its weight, among those that want something.

    Start-time fair queueing: whoever comes, or comes again, begins where those are that are served now, so that nobody
    saves up turns while away (Goyal, Vin and Cheng 1996).
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = weights
        self._had: dict[str, float] = {}
        self._present: Counter[str] = Counter()
        self._now = 0.0

    def had(self, tenant: str) -> float:
        """The less, the sooner it is this tenant's turn."""
        return max(self._had.get(tenant, 0.0), self._now) if not self._present[tenant] else self._had[tenant]

    def come(self, tenant: str) -> None:
        """A piece of its work is here from now on."""
        if not self._present[tenant]:
            self._had[tenant] = max(self._had.get(tenant, 0.0), self._now)
        self._present[tenant] += 1

    def go(self, tenant: str) -> None:
        """One is gone."""
        self._present[tenant] -= 1
        if not self._present[tenant]:
            del self._present[tenant]
            if not self._present:
                self._had.clear()
                self._now = 0.0
            elif self._had[tenant] <= self._now or len(self._had) - len(self._present) > MOST_REMEMBERED:
                del self._had[tenant]

    def take(self, tenant: str, amount: float) -> None:
        """It is given this part of the pool, or, where that is less than 0, did not need so much of it."""
        if amount > 0:
            self._now = max(self._now, self._had[tenant])
        self._had[tenant] += amount / self.weights.get(tenant, 1.0)

"""How often, and how many at once, calls may pass a rule."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from narthex.rates import Rate

from narthex_server.principal import Principal
from narthex_server.tools.policy.rule import Rule

MOST_CALLERS = 10_000
"""Callers of one rule that are remembered; those whose rate is all there again are forgotten first."""

_Who = tuple[str, ...]


class Allowance:
    """A rate for each of many callers: `count` at once, and they come back evenly (GCRA)."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._full: dict[_Who, float] = {}  # when all is there again

    def take(self, who: _Who) -> float:
        """Takes one of the caller's; returns 0, or in how many seconds there will be one."""
        now = self._clock()
        full = max(self._full.get(who, now), now) + self._rate.seconds / self._rate.count
        if (wait := full - now - self._rate.seconds) > 1e-9:
            return wait
        self._full[who] = full
        if len(self._full) > MOST_CALLERS:
            self._forget(now)
        return 0.0

    def _forget(self, now: float) -> None:
        self._full = {who: full for who, full in self._full.items() if full > now}
        for who in sorted(self._full, key=self._full.__getitem__)[: len(self._full) - MOST_CALLERS]:
            del self._full[who]


class PassedCalls:
    """What the limits of all rules have counted; it outlives the rules, so that a changed file does not begin anew."""

    def __init__(self) -> None:
        self._allowances: dict[tuple[str, Rate], Allowance] = {}
        self._running: Counter[tuple[str, _Who]] = Counter()

    def take(self, rule: Rule, principal: Principal) -> float:
        """Counts a call for its rule's rate; returns in how many seconds it may be made, 0 for now."""
        if not (rate := rule.limits.rate).count:
            return 0.0
        key = rule.name, rate
        if (allowance := self._allowances.get(key)) is None:
            allowance = self._allowances[key] = Allowance(rate)
        return allowance.take(_who(rule, principal))

    @contextmanager
    def running(self, rule: Rule, principal: Principal) -> Iterator[bool]:
        """Counts a call as running inside the block; gives whether it is one of as many as may."""
        if not rule.limits.concurrency:
            yield True
            return
        key = rule.name, _who(rule, principal)
        if self._running[key] >= rule.limits.concurrency:
            yield False
            return
        self._running[key] += 1
        try:
            yield True
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]

    def keep(self, rules: set[str]) -> None:
        """Forgets the rates of rules that are no more."""
        self._allowances = {key: one for key, one in self._allowances.items() if key[0] in rules}


def _who(rule: Rule, principal: Principal) -> _Who:
    match rule.limits.per:
        case "key":
            return principal.tenant, principal.name
        case "tenant":
            return (principal.tenant,)
        case "all":
            return ()

"""How often requests may come: per client address, per principal, and all together."""

import math

from narthex.rates import Rate

from narthex_bridge.caller import Caller
from narthex_bridge.config.limits import LimitsConfig
from narthex_bridge.gate.limiters import Allowance, Limiter
from narthex_bridge.http.refusal import Header, Reason, Refusal, Refused

_WHOSE: dict[Reason, str] = {
    "address_rate": "from this address",
    "principal_rate": "with this credential",
    "total_rate": "to this bridge",
}


class Limits:
    """Counts a request with each limit that applies to it; those that are off cost nothing.

    Requests without a valid credential count for their address alone: nobody can use up what is others'.
    """

    def __init__(self, config: LimitsConfig, addresses: Limiter, principals: Limiter, total: Limiter) -> None:
        self._config = config
        self._addresses = addresses
        self._principals = principals
        self._total = total

    async def arrive(self, address: str) -> Allowance | None:
        """Counts a request of a client address (empty: of this machine, unlimited). Raises Refused."""
        if not address:
            return None
        return await _take(self._addresses, address, self._config.address, "address_rate")

    async def admit(self, caller: Caller) -> Allowance | None:
        """Counts a request of a known caller; the tighter of its limits. Raises Refused."""
        rate = self._config.principal if caller.rate is None else caller.rate
        own = await _take(self._principals, f"{caller.tenant}\0{caller.name}", rate, "principal_rate")
        return tighter(own, await _take(self._total, "", self._config.total, "total_rate"))

    async def close(self) -> None:
        for limiter in (self._addresses, self._principals, self._total):
            await limiter.close()


def tighter(one: Allowance | None, other: Allowance | None) -> Allowance | None:
    """The allowance that ends first; None where no limit applies."""
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda allowance: allowance.remaining)


def headers(allowance: Allowance | None) -> tuple[Header, ...]:
    """What a client is told: its limit, what is left, and the seconds until all is there again."""
    if allowance is None:
        return ()
    return (
        ("x-ratelimit-limit", str(allowance.limit)),
        ("x-ratelimit-remaining", str(allowance.remaining)),
        ("x-ratelimit-reset", str(math.ceil(allowance.reset_s))),
    )


async def _take(limiter: Limiter, who: str, rate: Rate, reason: Reason) -> Allowance | None:
    if not rate.count:
        return None
    allowance = await limiter.take(who, rate)
    if allowance.retry_s <= 0:
        return allowance
    wait = max(math.ceil(allowance.retry_s), 1)
    text = f"There are more requests {_WHOSE[reason]} than {rate}; wait {wait} s."
    told = (*headers(allowance), ("retry-after", str(wait)))
    raise Refused(reason, Refusal(429, text, told, reason=reason.upper()))

"""Settings of the limits on how often clients may call."""

from dataclasses import dataclass

from narthex.rates import UNLIMITED, Rate
from narthex.settings import option


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """How many HTTP requests are taken, each written N/second, N/minute, N/hour, N/day or off.

    As many may come at once; after that they come back one by one, evenly.
    """

    total: Rate = option(UNLIMITED, "requests of all clients together", metavar="N/UNIT")
    address: Rate = option(Rate(6000, 60), "requests per client address, save those of this machine", metavar="N/UNIT")
    principal: Rate = option(
        UNLIMITED, "requests per key without a rate of its own, or token subject", metavar="N/UNIT"
    )

"""How work that does not fit now waits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from narthex.settings import NamedText, SettingsError, option


@dataclass(frozen=True, slots=True)
class LotSettings:
    """The order of what waits, beside `max_waiting`, and how much runs at once where nothing else says it."""

    ageing: float = option(
        10.0, "seconds after which what is next of a tenant counts as a level of priority more urgent", minimum=0.01
    )
    patience: float = option(2.0, "seconds for which work that fits may pass work that does not fit yet", minimum=0)
    weight: tuple[NamedText, ...] = option(
        (), "what a tenant gets, compared with those that are not named and have 1; repeatable", metavar="TENANT=NUMBER"
    )
    tenant_waiting: int = option(0, "requests of one tenant that may wait, per model or upstream; 0 is all", minimum=0)
    calls_waiting: int = option(1024, "calls that may wait, per upstream", minimum=0)
    embeddings: int = option(64, "requests that one embedder works on at once, in turns", minimum=1)
    call_memory: int = option(
        256 * 1024 * 1024, "bytes of arguments of the calls that one upstream works on at once", minimum=1024
    )

    def __post_init__(self) -> None:
        self.weights()

    def weights(self) -> Mapping[str, float]:
        """By tenant. Errors: SettingsError."""
        return {one.name: _weight(one) for one in self.weight}


def _weight(given: NamedText) -> float:
    try:
        weight = float(given.text)
    except ValueError:
        weight = math.nan
    if not 0.001 <= weight <= 1000:  # which nothing is that is no number
        raise SettingsError(f"--lot-weight {given.name}={given.text}: must be a number between 0.001 and 1000")
    return weight

"""By which rules a pool lets work wait."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Limits:
    """`waiting`: how much may wait, of all tenants, and `tenant_waiting` of one (0: as much); times in seconds.

    `ageing`: what is next of a tenant counts as a level of priority more urgent each time it has been that for so long.
    `patience`: for so long work that fits may pass work that does not, counted from the first that passed it.
    `weights`: the parts of a tenant, 1 for those that are not named; twice the weight gets twice as much.
    `gives_way`: work that is LOW can be interrupted, so what is HIGH or more is admitted as if that were not there.
    """

    waiting: int = 256
    tenant_waiting: int = 0
    ageing: float = 10.0
    patience: float = 2.0
    weights: Mapping[str, float] = field(default_factory=dict)
    gives_way: bool = False

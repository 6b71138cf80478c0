"""Why a pool does not admit work, as errors that callers can go by."""

from narthex_server.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from narthex_server.lot.units import Units

TOO_LARGE, QUEUE_FULL, DRAINING, CLOSED = "TOO_LARGE", "QUEUE_FULL", "DRAINING", "POOL_CLOSED"
DEADLINE = "DEADLINE_WHILE_WAITING"
STARTING = "UPSTREAM_STARTING"
NOT_YET = frozenset((QUEUE_FULL, DRAINING, STARTING))
"""Reasons for which work that was not begun may be tried again as it is."""


def too_large(pool: str, cost: Units, capacity: Units) -> ResourceExhausted:
    """It would not fit if it were alone; waiting does not help."""
    resource, asked = next((name, amount) for name, amount in cost.items() if amount > capacity.get(name, 0))
    most = capacity.get(resource, 0)
    return ResourceExhausted(
        f"this needs {asked} {resource} of {pool}, which has {most} in all; make it smaller",
        reason=TOO_LARGE,
        metadata={"pool": pool, "limit": resource, "requested": str(asked), "maximum": str(most)},
    )


def queue_full(pool: str, waiting: int, most: int, whose: str, retry_after: float) -> ResourceExhausted:
    """`whose` says in a sentence about `waiting` requests which ones those are."""
    return ResourceExhausted(
        f"{waiting} requests {whose}wait for {pool}, the limit; retry in {retry_after:.3g} s",
        reason=QUEUE_FULL,
        metadata={"pool": pool, "waiting": str(waiting), "max_waiting": str(most)},
        retry_after=retry_after,
    )


def draining(pool: str) -> Unavailable:
    """Nothing more is admitted there for now."""
    return Unavailable(f"{pool} is draining: it admits nothing more for now", reason=DRAINING, metadata={"pool": pool})


def closed(pool: str) -> Unavailable:
    """What the pool was for is gone."""
    return Unavailable(f"{pool} is not served any more", reason=CLOSED, metadata={"pool": pool})


def late(pool: str, waited: float) -> DeadlineExceeded:
    """Its time was over before its turn came."""
    return DeadlineExceeded(
        f"the call's time was over after {waited:.3g} s of waiting for {pool}; nothing was begun",
        reason=DEADLINE,
        metadata={"pool": pool},
    )

"""Whose ticket is next."""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple


class Candidate(NamedTuple):
    """A ticket that can be taken; sorted by who goes first."""

    rank: float
    id: str
    ref: int


class Head(NamedTuple):
    """A tenant that has tickets that wait, none of which has a lower rank."""

    rank: float
    tenant: str


def turns(
    running: Mapping[str, int],
    lapsed: Mapping[str, Sequence[Candidate]],
    heads: Iterator[Head],
    waiting: Callable[[str], Sequence[Candidate]],
) -> Iterator[Candidate]:
    """Who is taken, one after the other: of the tenants with the fewest running, the one of the lowest rank.

    `heads` come by rank, and are asked only as far as they can matter; `waiting` gives a tenant's in order.
    """
    counts = dict(running)
    queues: dict[str, Iterator[Candidate]] = {}
    fronts: list[tuple[int, Candidate, str]] = []

    def step(tenant: str) -> None:
        front = next(queues[tenant], None)
        if front is not None:
            heapq.heappush(fronts, (counts.get(tenant, 0), front, tenant))

    def join(tenant: str) -> None:
        if tenant not in queues:
            queues[tenant] = heapq.merge(sorted(lapsed.get(tenant, ())), waiting(tenant))
            step(tenant)

    for tenant in {**counts, **lapsed}:
        join(tenant)
    coming = next(heads, None)
    while True:
        # tenants that have not joined have nothing running: only their rank decides
        while coming is not None and (not fronts or (0, coming.rank) <= (fronts[0][0], fronts[0][1].rank)):
            join(coming.tenant)
            coming = next(heads, None)
        if not fronts:
            return
        count, chosen, tenant = heapq.heappop(fronts)
        yield chosen
        counts[tenant] = count + 1
        step(tenant)

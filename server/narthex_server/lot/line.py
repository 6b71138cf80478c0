"""Who waits at a pool, and in which order they are to be let in."""

import heapq
from collections import Counter
from collections.abc import Iterator

from narthex_server.lot.shares import Shares
from narthex_server.lot.terms import Priority
from narthex_server.lot.work import Work


class _Queue:
    """What one tenant has waiting at one level, the first of it since `first_since`."""

    def __init__(self, now: float) -> None:
        self.works: dict[Work, None] = {}
        self.first_since = now


class Line:
    """The most urgent level first; within it the tenant that has had least; of one tenant what came first.

    Only the first of a tenant's work at a level becomes more urgent while it waits, or a tenant that sends much at once
    would go before all that come later. So each piece is let in after finitely many others: those of its own queue that
    came before it, and, once it is first, those that came before it would have been the most urgent in any case.
    """

    def __init__(self, ageing: float, shares: Shares) -> None:
        self.ageing = ageing
        self._shares = shares
        self._queues: dict[tuple[str, Priority], _Queue] = {}
        self.by_priority: Counter[Priority] = Counter()
        self.by_tenant: Counter[str] = Counter()

    def __len__(self) -> int:
        return self.by_priority.total()

    def __iter__(self) -> Iterator[Work]:
        for queue in self._queues.values():
            yield from queue.works

    def join(self, work: Work, now: float) -> None:
        key = (work.tenant, work.priority)
        if (queue := self._queues.get(key)) is None:
            queue = self._queues[key] = _Queue(now)
        queue.works[work] = None
        self.by_priority[work.priority] += 1
        self.by_tenant[work.tenant] += 1

    def leave(self, work: Work, now: float) -> None:
        key = (work.tenant, work.priority)
        queue = self._queues[key]
        if next(iter(queue.works)) is work:
            queue.first_since = now
        del queue.works[work]
        if not queue.works:
            del self._queues[key]
        self.by_priority[work.priority] -= 1
        self.by_tenant[work.tenant] -= 1
        if not self.by_tenant[work.tenant]:
            del self.by_tenant[work.tenant]

    def in_order(self, now: float) -> Iterator[Work]:
        """Whom to let in first, and then whom if that one cannot be, and so on; until somebody joins or leaves."""
        fronts = []
        for (tenant, priority), queue in self._queues.items():
            works = iter(queue.works)
            first, had = next(works), self._shares.had(tenant)
            level = priority + int(max(now - queue.first_since, 0.0) / self.ageing)
            fronts.append((-level, had, first.number, first, works))
        heapq.heapify(fronts)
        while fronts:
            _, had, _, work, works = fronts[0]
            yield work
            if (after := next(works, None)) is None:
                heapq.heappop(fronts)
            else:
                heapq.heapreplace(fronts, (-after.priority, had, after.number, after, works))

"""The rules of a pool, without a clock or a loop: it is told the time, and says whom that lets in or turns away."""

import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from narthex_server.errors import NarthexError, Violation, invalid
from narthex_server.lot import refusals
from narthex_server.lot.limits import Limits
from narthex_server.lot.line import Line
from narthex_server.lot.shares import Shares
from narthex_server.lot.terms import Priority, Terms
from narthex_server.lot.throughput import Throughput
from narthex_server.lot.units import Units, fits, share
from narthex_server.lot.work import Stage, Work

LOOKED_AT = 64
"""How many of those that wait are tried where the first do not fit."""

NOTHING: Units = MappingProxyType({})


class Gate:
    """Lets work in as far as there is room, the others in the order of the line; `now` never goes back.

    What is admitted never costs more than the capacity, except where it turned out to cost more than was said, where
    the capacity was lowered, or where work gives way: then nothing is admitted until it costs less. Without what gives
    way, urgent work does not cost more than the capacity either.
    """

    def __init__(self, name: str, capacity: Units, limits: Limits) -> None:
        self.name = name
        self.limits = limits
        self.capacity = dict(capacity)
        self.most = dict(capacity)
        self.used = dict.fromkeys(capacity, 0)
        self._giving_way = dict.fromkeys(capacity, 0)  # of what is used, by work that is LOW
        self.running = 0
        self.draining = False
        self.closed = False
        self._shares = Shares(limits.weights)
        self.line = Line(limits.ageing, self._shares)
        self._throughput = Throughput()
        self._numbers = itertools.count()
        self._least: dict[str, int] = {}  # of each resource, what the most modest takes that waited lately
        self._settled: list[Work] = []

    def enter(self, tenant: str, terms: Terms, cost: Units, now: float) -> Work:
        """Work that is admitted at once, or waits. Errors: those of `refusals`."""
        if self.closed:
            raise refusals.closed(self.name)
        if self.draining:
            raise refusals.draining(self.name)
        if not fits(cost, self.capacity):
            raise refusals.too_large(self.name, cost, self.capacity)
        work = Work(tenant, terms.priority, cost, terms.deadline, now, next(self._numbers))
        if work.late(now):
            raise refusals.late(self.name, 0.0)
        self._shares.come(tenant)
        if not self.line and self._fits(work):
            self._admit(work)
            return work
        self._join(work, now)
        self._let_in(now)
        if work.stage is not Stage.WAITING:
            self._settled.remove(work)  # it did not wait
        elif refusal := self._crowded(tenant):
            self._turn_away(work, now)
            raise refusal
        return work

    def leave(self, work: Work, now: float) -> None:
        """It is done, or nobody wants it any more; a second time changes nothing."""
        if work.stage is Stage.WAITING:
            self._turn_away(work, now)
        elif work.stage is Stage.ADMITTED:
            work.stage = Stage.OVER
            self._use(work, -1)
            self.running -= 1
            self._shares.go(work.tenant)
            self._throughput.ended(now, bool(self.line))
        self._let_in(now)

    def correct(self, work: Work, cost: Units, now: float) -> None:
        """What admitted work really takes; of more than there is nothing is taken back."""
        if work.stage is Stage.ADMITTED:
            self._use(work, -1)
            self._shares.take(work.tenant, share(cost, self.capacity) - share(work.cost, self.capacity))
            work.cost = cost
            self._use(work, 1)
            self._let_in(now)

    def expire(self, now: float) -> None:
        """Turns away what has waited past its deadline."""
        for work in [work for work in self.line if work.late(now)]:
            self._turn_away(work, now, refusals.late(self.name, now - work.came))
        self._let_in(now)

    def resize(self, capacity: Units, now: float) -> None:
        """Changes how much there is of these resources; what waits and cannot fit any more is turned away.

        Errors: InvalidRequest, which changes nothing.
        """
        if violations := self._violations(capacity):
            raise invalid(*violations)
        self.capacity.update(capacity)
        self._turn_away_too_large(now)
        self._let_in(now)

    def refit(self, capacity: Units, limits: Limits, now: float) -> None:
        """What it is for was replaced by something of another size, or is waited for in another way."""
        self.capacity, self.most = dict(capacity), dict(capacity)
        self.used = dict.fromkeys(capacity, 0) | self.used
        self._giving_way = dict.fromkeys(capacity, 0) | self._giving_way
        self._least.clear()
        self.limits = limits
        self.line.ageing, self._shares.weights = limits.ageing, limits.weights
        self._turn_away_too_large(now)
        self._let_in(now)

    def drain(self, draining: bool, now: float) -> None:
        """Admits nothing more, or does again; what waits goes on waiting."""
        self.draining = draining
        self._let_in(now)

    def close(self, now: float) -> None:
        """Turns away all that waits and comes; what is admitted may end."""
        self.closed = True
        for work in [*self.line]:
            self._turn_away(work, now, refusals.closed(self.name))

    def settled(self) -> Sequence[Work]:
        """The work that was let in or turned away, after it had waited, since this was last asked."""
        settled, self._settled = self._settled, []
        return settled

    def _let_in(self, now: float) -> None:
        while self.line and not self.draining and self._may_fit():
            work = self._next(now)
            if work is None:
                return
            if work.late(now):
                self._turn_away(work, now, refusals.late(self.name, now - work.came))
            else:
                self.line.leave(work, now)
                self._admit(work)
                self._settled.append(work)
        if not self.line:
            self._least.clear()

    def _next(self, now: float) -> Work | None:
        """The first that fits, unless somebody whom others have passed for too long is before it."""
        passed: list[Work] = []
        for work in itertools.islice(self.line.in_order(now), LOOKED_AT):
            late = work.late(now)
            if self._fits(work):
                for other in () if late else passed:
                    other.passed = now if other.passed is None else other.passed
                return work
            if late:
                continue  # it will be turned away, and holds up nobody until then
            if work.passed is not None and now - work.passed >= self.limits.patience:
                return None
            passed.append(work)
        return None

    def _fits(self, work: Work) -> bool:
        return self._has_room(work.cost) or (
            self.limits.gives_way and work.priority >= Priority.HIGH and self._has_room(work.cost, self._giving_way)
        )

    def _may_fit(self) -> bool:
        """Whether looking through the line is worth it."""
        if self._has_room(self._least):
            return True
        waiting = self.line.by_priority
        urgent = waiting[Priority.HIGH] or waiting[Priority.CRITICAL]
        return bool(urgent) and self.limits.gives_way and self._has_room(self._least, self._giving_way)

    def _has_room(self, cost: Units, without: Mapping[str, int] = NOTHING) -> bool:
        for resource, amount in cost.items():
            if self.used[resource] - without.get(resource, 0) + amount > self.capacity[resource]:
                return False
        return True

    def _admit(self, work: Work) -> None:
        work.stage = Stage.ADMITTED
        self._use(work, 1)
        self.running += 1
        self._shares.take(work.tenant, share(work.cost, self.capacity))

    def _use(self, work: Work, sign: int) -> None:
        for resource, amount in work.cost.items():
            self.used[resource] += sign * amount
            if work.priority is Priority.LOW:
                self._giving_way[resource] += sign * amount

    def _join(self, work: Work, now: float) -> None:
        self.line.join(work, now)
        self._throughput.waits(now)
        for resource in self.capacity:
            amount = work.cost.get(resource, 0)
            self._least[resource] = min(self._least.get(resource, amount), amount)

    def _turn_away(self, work: Work, now: float, error: NarthexError | None = None) -> None:
        """Ends the waiting of work, of its own will or with an error."""
        self.line.leave(work, now)
        self._shares.go(work.tenant)
        work.stage, work.error = Stage.OVER, error
        if error is not None:
            self._settled.append(work)

    def _turn_away_too_large(self, now: float) -> None:
        for work in [work for work in self.line if not fits(work.cost, self.capacity)]:
            self._turn_away(work, now, refusals.too_large(self.name, work.cost, self.capacity))

    def _crowded(self, tenant: str) -> NarthexError | None:
        """Why the last one of a tenant that came is one too many; None where it is not.

        A full line is full for those who have an even part of it: nobody can fill it for others.
        """
        waiting, own, limits = len(self.line), self.line.by_tenant[tenant], self.limits
        if waiting > limits.waiting and own > limits.waiting // len(self.line.by_tenant):
            seconds = self._throughput.seconds(waiting - 1)
            return refusals.queue_full(self.name, waiting - 1, limits.waiting, "", seconds)
        if limits.tenant_waiting and own > limits.tenant_waiting:
            seconds = self._throughput.seconds(own - 1)
            return refusals.queue_full(self.name, own - 1, limits.tenant_waiting, "of this tenant ", seconds)
        return None

    def _violations(self, capacity: Units) -> list[Violation]:
        known = ", ".join(self.capacity)
        found = []
        for resource, amount in capacity.items():
            if resource not in self.capacity:
                found.append(Violation(f"capacity[{resource[:100]}]", f"is no resource of {self.name}: {known}"))
            elif not 1 <= amount <= self.most[resource]:
                most = self.most[resource]
                found.append(Violation(f"capacity[{resource}]", f"must be between 1 and {most}, got {amount}"))
        return found

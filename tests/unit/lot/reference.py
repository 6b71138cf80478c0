"""What a gate has to do, as plainly as it can be said: lists, and everything counted anew each time."""

from dataclasses import dataclass, field

from narthex_server.lot.limits import Limits
from narthex_server.lot.terms import Priority


@dataclass(eq=False)
class Piece:
    tenant: str
    priority: Priority
    cost: dict[str, int]
    deadline: float | None
    number: int
    first_since: float = 0.0
    passed: float | None = None


class Refused(Exception):
    """With the reason why."""


@dataclass
class Reference:
    capacity: dict[str, int]
    limits: Limits
    waiting: list[Piece] = field(default_factory=list)
    admitted: list[Piece] = field(default_factory=list)
    expired: list[Piece] = field(default_factory=list)
    refused: list[Piece] = field(default_factory=list)
    draining: bool = False
    had: dict[str, float] = field(default_factory=dict)
    served: float = 0.0

    def used(self, resource: str, low: bool = True) -> int:
        """With what is LOW, or without it."""
        return sum(piece.cost[resource] for piece in self.admitted if low or piece.priority is not Priority.LOW)

    def fits(self, piece: Piece) -> bool:
        urgent = self.limits.gives_way and piece.priority >= Priority.HIGH
        return any(
            all(self.used(one, low) + piece.cost[one] <= self.capacity[one] for one in self.capacity)
            for low in ([True, False] if urgent else [True])
        )

    def enter(self, piece: Piece, now: float) -> None:
        if self.draining:
            raise Refused("DRAINING")
        if any(piece.cost[one] > self.capacity[one] for one in self.capacity):
            raise Refused("TOO_LARGE")
        if piece.deadline is not None and now >= piece.deadline:
            raise Refused("DEADLINE_WHILE_WAITING")
        if piece.tenant not in self._tenants():
            self.had[piece.tenant] = max(self.had.get(piece.tenant, 0.0), self.served)
        if not self.waiting and self.fits(piece):
            self._admit(piece)
            return
        if not self._queue(piece):
            piece.first_since = now
        self.waiting.append(piece)
        self.let_in(now)
        if piece not in self.waiting:
            return
        own = sum(one.tenant == piece.tenant for one in self.waiting)
        part = self.limits.waiting // len({one.tenant for one in self.waiting})
        full = len(self.waiting) > self.limits.waiting and own > part
        if full or (self.limits.tenant_waiting and own > self.limits.tenant_waiting):
            self.remove(piece, now)
            raise Refused("QUEUE_FULL")

    def leave(self, piece: Piece, now: float) -> None:
        if piece in self.waiting:
            self.remove(piece, now)
        elif piece in self.admitted:
            self.admitted.remove(piece)
            self._gone(piece.tenant)
        self.let_in(now)

    def correct(self, piece: Piece, cost: dict[str, int], now: float) -> None:
        more = self._share(cost) - self._share(piece.cost)
        self._take(piece.tenant, more)
        piece.cost = cost
        self.let_in(now)

    def resize(self, capacity: dict[str, int], now: float) -> None:
        self.capacity = self.capacity | capacity
        for piece in list(self.waiting):
            if any(piece.cost[one] > self.capacity[one] for one in self.capacity):
                self.remove(piece, now)
                self.refused.append(piece)
        self.let_in(now)

    def expire(self, now: float) -> None:
        for piece in list(self.waiting):
            if piece.deadline is not None and now >= piece.deadline:
                self.remove(piece, now)
                self.expired.append(piece)
        self.let_in(now)

    def let_in(self, now: float) -> None:
        while not self.draining and (chosen := self._chosen(now)) is not None:
            late = chosen.deadline is not None and now >= chosen.deadline
            if late:
                self.remove(chosen, now)
                self.expired.append(chosen)
            else:
                self._unqueue(chosen, now)
                self._admit(chosen)

    def in_order(self, now: float) -> list[Piece]:
        """The best of the fronts of all queues, then the best of the fronts that are left, …"""
        left, order = list(self.waiting), []
        while left:
            fronts = [piece for piece in left if not any(self._before(other, piece) for other in left)]
            order.append(
                min(fronts, key=lambda piece: (-self._level(piece, now), self.had[piece.tenant], piece.number))
            )
            left.remove(order[-1])
        return order

    def remove(self, piece: Piece, now: float) -> None:
        self._unqueue(piece, now)
        self._gone(piece.tenant)

    def _chosen(self, now: float) -> Piece | None:
        passed = []
        for piece in self.in_order(now):
            late = piece.deadline is not None and now >= piece.deadline
            if self.fits(piece):
                for other in [] if late else passed:
                    other.passed = now if other.passed is None else other.passed
                return piece
            if not late and piece.passed is not None and now - piece.passed >= self.limits.patience:
                return None
            if not late:
                passed.append(piece)
        return None

    def _level(self, piece: Piece, now: float) -> int:
        first = self._queue(piece)[0] is piece
        return piece.priority + (int((now - piece.first_since) / self.limits.ageing) if first else 0)

    def _queue(self, piece: Piece) -> list[Piece]:
        return [one for one in self.waiting if (one.tenant, one.priority) == (piece.tenant, piece.priority)]

    def _before(self, other: Piece, piece: Piece) -> bool:
        same = (other.tenant, other.priority) == (piece.tenant, piece.priority)
        return same and other.number < piece.number

    def _unqueue(self, piece: Piece, now: float) -> None:
        queue = self._queue(piece)
        if queue[0] is piece and len(queue) > 1:
            queue[1].first_since = now
        self.waiting.remove(piece)

    def _admit(self, piece: Piece) -> None:
        self.admitted.append(piece)
        self._take(piece.tenant, self._share(piece.cost))

    def _take(self, tenant: str, amount: float) -> None:
        if amount > 0:
            self.served = max(self.served, self.had[tenant])
        self.had[tenant] += amount / self.limits.weights.get(tenant, 1.0)

    def _share(self, cost: dict[str, int]) -> float:
        return max(cost[one] / self.capacity[one] for one in self.capacity)

    def _tenants(self) -> set[str]:
        return {piece.tenant for piece in [*self.waiting, *self.admitted]}

    def _gone(self, tenant: str) -> None:
        if not self._tenants():
            self.had, self.served = {}, 0.0
        elif tenant not in self._tenants() and self.had[tenant] <= self.served:
            del self.had[tenant]

"""What one kind of work shares and waits for."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass

from narthex_server.errors import DeadlineExceeded, NarthexError
from narthex_server.lot import refusals
from narthex_server.lot.gate import Gate
from narthex_server.lot.limits import Limits
from narthex_server.lot.observer import LotObserver, Unobserved
from narthex_server.lot.permit import Permit
from narthex_server.lot.terms import TERMS, Priority, Terms
from narthex_server.lot.units import Units
from narthex_server.lot.work import Work
from narthex_server.principal import CALLER


@dataclass(frozen=True, slots=True)
class PoolReading:
    """A pool at one moment; `most` is what its capacity may be raised to, `longest_wait` in seconds, None for nobody's.

    `waiting` has only levels at which something waits.
    """

    name: str
    used: Units
    capacity: Units
    most: Units
    running: int
    waiting: Mapping[Priority, int]
    max_waiting: int
    draining: bool
    longest_wait: float | None


class Pool:
    """Admits work to what it shares; for one event loop, whose clock has to be the monotonic one, as it usually is."""

    def __init__(
        self,
        name: str,
        capacity: Units,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        observer: LotObserver | None = None,
    ) -> None:
        self._gate = Gate(name, capacity, limits)
        self._observer = observer or Unobserved()
        self._sleepers: dict[Work, asyncio.Future[None]] = {}

    @property
    def name(self) -> str:
        return self._gate.name

    @property
    def running(self) -> int:
        """Pieces of work that are admitted."""
        return self._gate.running

    @property
    def waiting(self) -> int:
        """Those that wait."""
        return len(self._gate.line)

    @property
    def capacity(self) -> Units:
        """How much there is."""
        return self._gate.capacity

    async def admit(self, cost: Units, terms: Terms | None = None, tenant: str | None = None) -> Permit:
        """Waits for the turn of work that costs so much; `terms` and `tenant` are the running call's unless given.

        Cancelling it at any point leaves nothing taken. Errors: ResourceExhausted, TOO_LARGE for what does not fit into
        the empty pool, QUEUE_FULL where too much waits already; Unavailable, DRAINING or POOL_CLOSED;
        DeadlineExceeded.
        """
        terms, tenant = terms or TERMS.get(), CALLER.get().tenant if tenant is None else tenant
        gate, began = self._gate, time.monotonic()
        try:
            work = gate.enter(tenant, terms, cost, began)
        except NarthexError as error:
            self._tell(error, terms, 0.0)
            raise
        finally:
            self._wake()
        if not work.admitted:
            await self._turn(work, terms)
        self._observer.on_admitted(gate.name, terms.priority, time.monotonic() - began)
        return Permit(self, work)

    async def _turn(self, work: Work, terms: Terms) -> None:
        """Returns when work is admitted. Errors: as of `admit`."""
        loop = asyncio.get_running_loop()
        woken = self._sleepers[work] = loop.create_future()
        timer = None if terms.deadline is None else loop.call_at(terms.deadline, self._expire, terms.deadline)
        try:
            await woken
            if work.error is not None:
                raise work.error
            if work.late(now := time.monotonic()):  # it was admitted in time, but has come to know of it too late
                raise refusals.late(self.name, now - work.came)
        except BaseException as error:
            self.leave(work)
            self._tell(error, terms, time.monotonic() - work.came)
            raise
        finally:
            self._sleepers.pop(work, None)
            if timer is not None:
                timer.cancel()

    def leave(self, work: Work) -> None:
        """As Gate.leave, now."""
        self._gate.leave(work, time.monotonic())
        self._wake()

    def correct(self, work: Work, cost: Units) -> None:
        """As Gate.correct, now."""
        self._gate.correct(work, cost, time.monotonic())
        self._wake()

    def resize(self, capacity: Units) -> None:
        """Changes how much there is of these resources; what is admitted stays. Errors: InvalidRequest."""
        self._gate.resize(capacity, time.monotonic())
        self._wake()

    def refit(self, capacity: Units, limits: Limits) -> None:
        """As Gate.refit, now."""
        self._gate.refit(capacity, limits, time.monotonic())
        self._wake()

    def drain(self, draining: bool = True) -> None:
        """Admits nothing more, or does again; what waits goes on waiting."""
        self._gate.drain(draining, time.monotonic())
        self._wake()

    def close(self) -> None:
        """Turns away all that waits and comes; what is admitted may end."""
        self._gate.close(time.monotonic())
        self._wake()

    def reading(self) -> PoolReading:
        """How it is now; may be called from any thread."""
        gate = self._gate
        came = [work.came for work in [*self._sleepers]]
        waiting = {priority: count for priority in reversed(Priority) if (count := gate.line.by_priority[priority])}
        return PoolReading(
            gate.name, dict(gate.used), dict(gate.capacity), dict(gate.most), gate.running, waiting,
            gate.limits.waiting, gate.draining, time.monotonic() - min(came) if came else None,
        )  # fmt: skip

    def _expire(self, deadline: float) -> None:
        self._gate.expire(max(time.monotonic(), deadline))  # a timer may be early by less than the clock can tell
        self._wake()

    def _wake(self) -> None:
        for work in self._gate.settled():
            woken = self._sleepers.pop(work, None)
            if woken is not None and not woken.done():
                woken.set_result(None)

    def _tell(self, error: BaseException, terms: Terms, waited: float) -> None:
        match error:
            case DeadlineExceeded():
                self._observer.on_expired(self.name, terms.priority, waited)
            case NarthexError():
                self._observer.on_refused(self.name, error.reason)
            case _:
                self._observer.on_abandoned(self.name, terms.priority, waited)

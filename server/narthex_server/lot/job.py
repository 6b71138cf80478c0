"""One ticket that this server works on."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from enum import Enum, auto
from functools import partial

from narthex_server.errors import DeadlineExceeded, ResourceExhausted, Unavailable
from narthex_server.lot.journal import RETRY, Journal, patiently
from narthex_server.lot.news import News
from narthex_server.lot.refusals import NOT_YET
from narthex_server.lot.runner import Happening, Runner
from narthex_server.lot.stores.store import Lease, LeaseLost, TicketStore
from narthex_server.lot.ticket import Change, Outcome, State, Ticket

BATCH_BYTES = 1 << 20
"""Bytes of kept events that are asked for at a time."""

LONGEST_WAIT = 5.0
"""Seconds until work that could not be done yet is begun again, at most."""


class _Ending(Enum):
    """Why somebody ended a job before its time."""

    LOST = auto()
    RELEASED = auto()


class Job:
    """Does the work of a taken ticket, and keeps what happens in it; run it once, in a task of its own."""

    def __init__(
        self,
        ticket: Ticket,
        store: TicketStore,
        runner: Runner,
        news: News,
        asked: Callable[[Ticket], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`asked` hears of it when the work waits for an answer."""
        self.ticket = ticket
        self.lease = Lease(ticket.order.tenant, ticket.order.id, ticket.attempt)
        self.journal = Journal(store, self.lease, ticket.events, self._told, self._failed)
        self.renewed = asyncio.get_running_loop().time()
        self._store = store
        self._runner = runner
        self._news = news
        self._asked = asked
        self._clock = clock
        self._task: asyncio.Task[object] | None = None
        self._ending: _Ending | None = None
        self._finishing = False

    def lose(self) -> None:
        """The ticket is no longer this server's: nothing more is kept of it."""
        self._end(_Ending.LOST)

    def release(self) -> None:
        """The ticket goes back to wait for another server, or for this one's next start."""
        self._end(_Ending.RELEASED)

    async def run(self) -> Ticket | None:
        """The ticket when it is over; None where that is no longer for this server to say."""
        self._task = asyncio.current_task()
        try:
            if self._ending is not None:
                raise asyncio.CancelledError
            return await self._worked()
        except LeaseLost:
            return None
        except asyncio.CancelledError:
            if self._ending is None or self._task is None:
                raise
            self._task.uncancel()
            if self._ending is _Ending.RELEASED:
                await self._given_back()
            return None
        finally:
            self.journal.close()
            self._runner.ended(self.ticket.order)

    async def _worked(self) -> Ticket:
        order, outcome = self.ticket.order, Outcome(State.DONE)
        left = None if order.deadline is None else order.deadline - self._clock()
        try:
            async with asyncio.timeout(left) as limit:
                await self._do(await self._kept())
        except LeaseLost:
            raise
        except TimeoutError as error:
            outcome = self._runner.outcome(error)
            if limit.expired():
                late = DeadlineExceeded("the time that the ticket's work may take is over")
                outcome = replace(self._runner.outcome(late), state=State.CANCELLED)
        except Exception as error:
            outcome = self._runner.outcome(error)
        try:
            rest = await self.journal.rest()
        except LeaseLost:
            raise
        except ResourceExhausted as error:
            rest = ()  # the tenant has no room for them, so the work has not done what it was to do
            if outcome.state is State.DONE:
                outcome = self._runner.outcome(error)
        return await self._finish(outcome, rest)

    async def _do(self, kept: Sequence[bytes]) -> None:
        """Begins again, after a while, as long as where it is done there is no room for it, or none comes in.

        It may have told that it began before it was refused, which it does not tell twice.
        """
        while True:
            try:
                async with aclosing(self._runner.run(self.ticket.order, self.ticket.attempt, kept)) as happenings:
                    async for happening in happenings:
                        await self._keep(happening)
                return
            except (ResourceExhausted, Unavailable) as error:
                if error.reason not in NOT_YET or (self.journal.begun and not self.ticket.order.repeatable):
                    raise
                await asyncio.sleep(min(error.retry_after or 1.0, LONGEST_WAIT))
                await self.journal.flush()
                kept = await self._kept()

    async def _keep(self, happening: Happening) -> None:
        await self.journal.put(happening.event)
        if not self.ticket.order.repeatable:  # what is about to be done has to be known after a crash
            await self.journal.flush()
        state = State.INPUT_REQUIRED if happening.waits else State.RUNNING
        if state is not self.ticket.state:
            await self.journal.flush()
            self.ticket = await patiently(partial(self._store.move, self.lease, state))
            self._told(self.journal.count)
            if happening.waits:
                self._asked(self.ticket)

    async def _kept(self) -> Sequence[bytes]:
        """What was told so far, by attempts before or by this one."""
        events: list[bytes] = []
        while len(events) < self.journal.count:
            order, after = self.ticket.order, len(events)
            more = await patiently(partial(self._store.events, order.tenant, order.id, after, BATCH_BYTES))
            if not more:
                raise LeaseLost
            events += more
        return events

    async def _finish(self, outcome: Outcome, rest: Sequence[bytes]) -> Ticket:
        self._finishing = True
        while True:
            try:
                self.ticket = await self._store.finish(self.lease, outcome, rest)
                self.journal.kept(rest)
                return self.ticket
            except ResourceExhausted as error:
                outcome, rest = self._runner.outcome(error), ()
            except Unavailable:
                self._finishing = False  # until then the lease may run out
                await asyncio.sleep(RETRY)
                self._finishing = True

    async def _given_back(self) -> None:
        try:
            await self.journal.flush()
            await self._store.release(self.lease)
        except (LeaseLost, ResourceExhausted, Unavailable):
            pass  # the lease runs out by itself

    def _end(self, why: _Ending) -> None:
        if self._ending is None and not self._finishing:
            self._ending = why
            if self._task is not None:
                self._task.cancel()

    def _told(self, count: int) -> None:
        self._news.tell(Change(self.lease.tenant, self.lease.ticket, self.ticket.version, count))

    def _failed(self, error: Exception) -> None:
        if isinstance(error, LeaseLost):
            self.lose()

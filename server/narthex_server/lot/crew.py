"""Those who work on tickets here."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from narthex_server.errors import Unavailable
from narthex_server.lot.forever import forever
from narthex_server.lot.job import Job
from narthex_server.lot.news import News
from narthex_server.lot.runner import Runner
from narthex_server.lot.stores.store import TicketStore
from narthex_server.lot.ticket import Change, Ticket
from narthex_server.lot.transition import TicketObserver, Transition, Verb

LOOK = 2.0
"""Seconds between two looks for tickets whose server has died, or that nobody told of."""

ENDING = 5.0
"""Seconds that work which was told to end may take for it."""

log = logging.getLogger(__name__)

_Key = tuple[str, str]


class Crew:
    """Takes tickets whenever fewer than `most` are worked on, and holds on to those that are.

    Those that somebody waits for are begun at once and do not count: admission to what they need is not its business.
    """

    def __init__(
        self,
        store: TicketStore,
        runner: Runner,
        news: News,
        observer: TicketObserver,
        *,
        most: int,
        lease: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`lease` is after how many seconds without a sign of life somebody else takes a ticket over."""
        self.draining = False
        self.lease = lease
        self._store = store
        self._runner = runner
        self._news = news
        self._observer = observer
        self._most = most
        self._clock = clock
        self._jobs: dict[_Key, Job] = {}
        self._working: dict[asyncio.Task[None], Job] = {}
        self._taken: set[asyncio.Task[None]] = set()
        self._coming: set[_Key] = set()
        self._wanted = asyncio.Event()
        self._wanted.set()  # those of a server before
        self._doubted = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    @property
    def running(self) -> int:
        """Tickets that are worked on here."""
        return len(self._jobs)

    def start(self) -> None:
        """Begins to take tickets."""
        loops = forever("taking tickets", self._take, 0.0), forever("renewing leases", self._renew, 0.0)
        self._loops = [asyncio.create_task(loop) for loop in loops]

    async def drain(self, grace: float) -> None:
        """Takes no more; what is not done after `grace` seconds goes back to wait."""
        self.draining = True
        for loop in self._loops[:1]:
            loop.cancel()
        if self._working:
            await asyncio.wait(self._working, timeout=grace)
        for job in self._working.values():
            job.release()
        if self._working:
            await asyncio.wait(self._working, timeout=ENDING)
        for task in (*self._loops, *self._working):
            task.cancel()
        await asyncio.gather(*self._loops, *self._working, return_exceptions=True)
        self._news.wake()

    def begin(self, ticket: Ticket, *, taken: bool = False) -> None:
        """Works on a ticket whose lease this server has."""
        job = Job(ticket, self._store, self._runner, self._news, self._asked, self._clock)
        if self.draining:  # it came while this began
            job.release()
        self._jobs[ticket.order.tenant, ticket.order.id] = job
        task = asyncio.create_task(self._work(job))
        self._working[task] = job
        if taken:
            self._taken.add(task)
        task.add_done_callback(self._done)
        self._told(Verb.STARTED, ticket)

    def find(self, tenant: str, ticket: str) -> Job | None:
        """The job of a ticket that is worked on here."""
        return self._jobs.get((tenant, ticket))

    def lose(self, tenant: str, ticket: str) -> None:
        """The ticket is cancelled: its work ends at once."""
        if (job := self._jobs.get((tenant, ticket))) is not None:
            job.lose()

    def hear(self, change: Change) -> None:
        """Something has changed, here or at another server."""
        key = change.tenant, change.id
        job = self._jobs.get(key)
        if job is None and change.version == 1 and not change.events and key not in self._coming:
            self._wanted.set()  # it may be new; what was given back is found by looking
        elif job is not None and change.version > job.ticket.version:  # perhaps cancelled
            self._doubted.set()

    @contextmanager
    def expecting(self, tenant: str, ticket: str) -> Iterator[None]:
        """Within the block a ticket is given that is to be begun here, so that its news send nobody to take it."""
        self._coming.add((tenant, ticket))
        try:
            yield
        finally:
            self._coming.discard((tenant, ticket))

    async def _work(self, job: Job) -> None:
        key = job.lease.tenant, job.lease.ticket
        try:
            ended = await job.run()
        except Exception:
            log.exception("ticket %s failed in the lot itself", job.lease.ticket)
            ended = None
        finally:
            if self._jobs.get(key) is job:
                del self._jobs[key]
        if ended is not None:
            self._told(Verb.FINISHED, ended)
        elif self.draining:
            self._told(Verb.RELEASED, job.ticket)
        else:
            self._news.wake()

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._working[task]
        self._taken.discard(task)
        self._wanted.set()

    def _asked(self, ticket: Ticket) -> None:
        self._told(Verb.ASKED, ticket)

    def _told(self, verb: Verb, ticket: Ticket) -> None:
        order = ticket.order
        self._news.tell(Change(order.tenant, order.id, ticket.version, ticket.events))
        self._observer.on_transition(Transition(verb, ticket))

    async def _take(self) -> None:
        """As many as there is room for, whenever there may be some."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK):
                await self._wanted.wait()
        self._wanted.clear()
        if (room := self._most - len(self._taken)) > 0:
            for ticket in await self._store.take(room, self.lease):
                self.begin(ticket, taken=True)

    async def _renew(self) -> None:
        """Keeps the leases, and ends the work on those that are lost."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.lease / 3):
                await self._doubted.wait()
        self._doubted.clear()
        jobs, asked = [*self._jobs.values()], asyncio.get_running_loop().time()
        if not jobs:
            return
        try:
            held = set(await self._store.renew([job.lease for job in jobs], self.lease))
        except Unavailable:
            self._lose(job for job in jobs if asked - job.renewed > self.lease)
            raise
        for job in jobs:
            if job.lease in held:
                job.renewed = asked
        self._lose(job for job in jobs if job.lease not in held)

    @staticmethod
    def _lose(jobs: Iterable[Job]) -> None:
        for job in jobs:
            job.lose()

"""A resumable stream: numbered events that one connection reads, and another one after it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from narthex_bridge.metrics import Metrics
from narthex_bridge.outbox import Outbox
from narthex_bridge.stores.store import EventStore, StoreUnavailable
from narthex_bridge.streams.source import Event, with_losses

logger = logging.getLogger(__name__)

UNKEPT = 1024  # events that wait in memory for a store that is away


class Stream:
    """A stream that this process makes: what is put into its outbox is kept, then read.

    `last` is the number of the last event that left the outbox, `size` the bytes of all that did. A `finite` one ends
    when its outbox is closed. `told` is set while another replica reads along, and wants to be told of each step.
    """

    __slots__ = (
        "_left", "_lock", "_metrics", "_reader", "_store", "_unkept",
        "ended", "finite", "last", "name", "outbox", "session", "size", "told",
    )  # fmt: skip

    def __init__(
        self, session: str, name: str, outbox: Outbox, store: EventStore, metrics: Metrics, left: Callable[[], None],
        *, finite: bool, last: int = 0,
    ) -> None:  # fmt: skip
        """`left` is called when its reader has gone and no other one has taken over."""
        self.session = session
        self.name = name
        self.outbox = outbox
        self.finite = finite
        self.last = last
        self.size = 0
        self.ended = False
        self.told: Callable[[], Awaitable[None]] | None = None
        self._store = store
        self._metrics = metrics
        self._left = left
        self._unkept: list[bytes] = []  # the last ones; delivered while the store was away
        self._reader: object | None = None
        self._lock = asyncio.Lock()

    def attach(self, reader: object) -> None:
        """Makes this the one reader; another one is shown the end at once."""
        self._reader = reader
        self.outbox.wake()

    async def after(self, reader: object, number: int, patience_s: float) -> list[Event] | None:
        if self._reader is reader and number >= self.last:
            await self.outbox.wait(patience_s)
            async with self._lock:
                if self._reader is reader and number == self.last and (messages := await self._advance()):
                    return list(enumerate(messages, number + 1))
        if self._reader is not reader or (number >= self.last and self._over):
            return None
        return await self._again(number) if number < self.last else []

    def leave(self, reader: object) -> None:
        if self._reader is reader:
            self._reader = None
            self._left()

    async def advance(self, patience_s: float, limit: int) -> None:
        """Keeps what waits, `limit` events at most, for a reader who may come."""
        await self.outbox.wait(patience_s)
        async with self._lock:
            await self._advance(limit)

    async def settle(self) -> bool:
        """Tries again to keep what could not be kept; False where that is still so."""
        async with self._lock:
            if self._unkept:
                await self._keep([], self.ended)
        return not self._unkept

    @property
    def settled(self) -> bool:
        return self.ended and not self._unkept

    @property
    def _over(self) -> bool:
        return self.ended or (self.outbox.closed and not self.outbox.peek())

    async def _advance(self, limit: int | None = None) -> list[bytes]:
        waiting = self.outbox.peek()
        messages = waiting[:limit]
        ended = self.finite and self.outbox.closed and len(messages) == len(waiting)
        if messages or (ended and not self.ended):
            # Kept before it is sent: a client that knows an event's number can have all that follows. Cancelled in
            # between, the messages are still in the outbox, and kept once: the store knows their numbers.
            await self._keep(messages, ended)
            self.outbox.drop(len(messages))
            self.last += len(messages)
            self.size += sum(map(len, messages))
            self.ended = ended
            if self.told is not None:
                await self.told()
        return messages

    async def _keep(self, messages: list[bytes], ended: bool) -> None:
        waiting = self._unkept + messages
        try:
            first = self.last + 1 - len(self._unkept)
            await self._store.append(self.session, self.name, first, waiting, ended)
        except StoreUnavailable as error:
            if not self._unkept:
                logger.warning("events are delivered, but cannot be kept: %s", error)
            self._metrics.lost_events.inc(max(len(waiting) - UNKEPT, 0))
            self._unkept = waiting[-UNKEPT:]
        else:
            self._metrics.stored_events.inc(len(waiting))
            self._unkept = []

    async def _again(self, number: int) -> list[Event]:
        unkept = list(enumerate(self._unkept, self.last + 1 - len(self._unkept)))
        if not unkept or number + 1 < unkept[0][0]:
            page = await self._store.read(self.session, self.name, number)
            # One may be kept, and in the outbox still: whoever was about to take it has gone.
            if page is not None and (events := [event for event in page.events if event[0] <= self.last]):
                return with_losses(number, events, self.last)
        return with_losses(number, [event for event in unkept if event[0] > number], self.last)

"""What happens in one ticket's work, on its way to the store."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import islice
from typing import TypeVar

from narthex_server.errors import Unavailable
from narthex_server.lot.stores.store import Lease, TicketStore

T = TypeVar("T")

MOST_PENDING = 1 << 20
"""Bytes that may wait to be kept; with more of them the work waits."""

MOST_REMEMBERED = 1 << 20
"""Bytes of kept events that those who follow need not ask the store for."""

MOST_AT_END = 1 << 16
"""Bytes of events that are kept together with the end of the work, whether there is room for them or not."""

PACE = 0.005
"""Seconds between two writes: events that come faster share them, others do not wait."""

RETRY = 0.25
"""Seconds until a store that failed is tried again."""


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """What the store answers when it does; whoever owns the lease gives up in time."""
    while True:
        try:
            return await call()
        except Unavailable:
            await asyncio.sleep(RETRY)


class Journal:
    """Keeps events in their order, those together that come at nearly the same time, or while others are being written.

    Nobody is shown an event that is not kept. While the store fails they wait; whoever owns the lease gives up in time.
    """

    def __init__(
        self,
        store: TicketStore,
        lease: Lease,
        count: int,
        told: Callable[[int], None],
        failed: Callable[[Exception], None],
    ) -> None:
        """`count` events are kept already; `told` hears how many there are whenever there are more.

        `failed` hears of an error after which nothing more is kept.
        """
        self.count = count
        self.begun = False
        self._store = store
        self._lease = lease
        self._told = told
        self._failed = failed
        self._pending: list[bytes] = []
        self._size = 0
        self._writing: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._written_at = -PACE
        self._error: Exception | None = None
        self._room = asyncio.Event()
        self._remembered: deque[bytes] = deque()
        self._remembered_size = 0

    async def put(self, event: bytes) -> None:
        """Takes an event in; waits where too much waits already. Errors: those of the store, of this or one before."""
        self.begun = True
        self._pending.append(event)
        self._size += len(event)
        if self._size <= MOST_PENDING:
            self._write_soon()
        else:
            self._write()
        while self._size > MOST_PENDING and self._error is None:
            self._room.clear()
            await self._room.wait()
        if self._error is not None:
            raise self._error

    async def flush(self) -> None:
        """Returns when all is kept. Errors: as `put`."""
        self._write()
        while self._writing is not None:
            await asyncio.wait((self._writing,))
            self._write()
        if self._error is not None:
            raise self._error

    async def rest(self) -> Sequence[bytes]:
        """What is not kept yet, which whoever asks keeps together with the end; nothing where that is much, which is
        kept before, as far as there is room. Errors: as `put`.
        """
        rest: list[bytes] = []
        if self._size <= MOST_AT_END:
            self._pending, rest = [], self._pending  # so that what is being written is not followed by them
        await self.flush()
        return rest

    def kept(self, events: Sequence[bytes]) -> None:
        """They are, where somebody else kept the rest."""
        self.count += len(events)
        self._remember(events)

    def after(self, sequence: int) -> Sequence[bytes] | None:
        """The kept events after that one; None where they are not remembered."""
        missed, remembered = self.count - sequence, len(self._remembered)
        return list(islice(self._remembered, remembered - missed, None)) if 0 <= missed <= remembered else None

    def close(self) -> None:
        """Writes nothing more."""
        if self._later is not None:
            self._later.cancel()
        if self._writing is not None:
            self._writing.cancel()

    def _write_soon(self) -> None:
        if self._writing is None and self._later is None:
            loop = asyncio.get_running_loop()
            wait = self._written_at + PACE - loop.time()
            if wait > 0:
                self._later = loop.call_later(wait, self._write)
            else:
                self._write()

    def _write(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        if self._pending and self._writing is None and self._error is None:
            self._writing = asyncio.create_task(self._written())

    async def _written(self) -> None:
        try:
            self._written_at = asyncio.get_running_loop().time()
            batch, self._pending = self._pending, []
            if batch:  # else the end came meanwhile, and takes them along
                await patiently(partial(self._store.append, self._lease, batch))
                self._size -= sum(map(len, batch))
                self.kept(batch)
                self._told(self.count)
        except Exception as error:
            self._error = error
            self._failed(error)
        finally:
            self._writing = None
            self._room.set()
        if self._pending:
            self._write_soon()

    def _remember(self, batch: Sequence[bytes]) -> None:
        self._remembered.extend(batch)
        self._remembered_size += sum(map(len, batch))
        while self._remembered_size > MOST_REMEMBERED:
            self._remembered_size -= len(self._remembered.popleft())

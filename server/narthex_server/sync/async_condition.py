"""Waiting, with a lock given back meanwhile, until something is so: for the tasks of one event loop."""

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TypeVar

from narthex_server.sync.async_mutex import OwnAsyncMutex

T = TypeVar("T")


class AsyncCondition(Protocol):
    """What asyncio.Condition is; held within an `async with`, as all that is done with it must be."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None, /
    ) -> None: ...

    async def wait(self) -> object:
        """Gives the lock back until somebody notifies."""

    async def wait_for(self, predicate: Callable[[], T]) -> T:
        """Waits until the predicate holds; its answer."""

    def notify(self, n: int = 1) -> None:
        """Wakes so many, those first who have waited longest."""

    def notify_all(self) -> None:
        """Wakes all."""


class OwnAsyncCondition:
    """An AsyncCondition in which no call is lost: a task that is cancelled after it was woken wakes another one."""

    __slots__ = ("_mutex", "_waiting")

    def __init__(self, mutex: OwnAsyncMutex) -> None:
        self._mutex = mutex
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        await self._mutex.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._mutex.release()

    async def wait(self) -> None:
        call: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(call)
        self._mutex.release()
        try:
            try:
                await call
            finally:
                await self._back()
        except BaseException:
            if call in self._waiting:
                self._waiting.remove(call)
            elif call.done() and not call.cancelled():
                self.notify()
            raise

    async def wait_for(self, predicate: Callable[[], T]) -> T:
        while not (answer := predicate()):
            await self.wait()
        return answer

    def notify(self, n: int = 1) -> None:
        while n and self._waiting:
            call = self._waiting.popleft()
            if not call.done():
                call.set_result(None)
                n -= 1

    def notify_all(self) -> None:
        self.notify(len(self._waiting))

    async def _back(self) -> None:
        """Takes the lock again, which whoever is cancelled has to hold as well when it leaves the `async with`."""
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                await self._mutex.__aenter__()
                break
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

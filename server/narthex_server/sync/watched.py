"""Locks that tell a watchdog what happens to them."""

from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from narthex_server.sync.async_condition import AsyncCondition
from narthex_server.sync.async_mutex import AsyncMutex
from narthex_server.sync.condition import Condition
from narthex_server.sync.making import Making
from narthex_server.sync.mutex import Mutex
from narthex_server.sync.shared import Shared
from narthex_server.sync.watchdog import Mark, Watchdog

T = TypeVar("T")


class Watched:
    """Makes locks as another does, each of them watched."""

    def __init__(self, making: Making, watchdog: Watchdog) -> None:
        self._making = making
        self._watchdog = watchdog

    def mutex(self, name: str) -> Mutex:
        return _Mutex(self._making.mutex(name), Mark(name), self._watchdog)

    def shared(self, name: str) -> Shared:
        return _Shared(self._making.shared(name), Mark(name), self._watchdog)

    def condition(self, name: str) -> Condition:
        return _Condition(self._making.condition(name), Mark(name), self._watchdog)

    def async_mutex(self, name: str) -> AsyncMutex:
        return _AsyncMutex(self._making.async_mutex(name), Mark(name), self._watchdog)

    def async_condition(self, name: str) -> AsyncCondition:
        return _AsyncCondition(self._making.async_condition(name), Mark(name), self._watchdog)


class _Mutex:
    def __init__(self, lock: Mutex, mark: Mark, watchdog: Watchdog) -> None:
        self._lock = lock
        self._mark = mark
        self._watchdog = watchdog

    def __enter__(self) -> bool:
        self._watchdog.asks(self._mark)
        try:
            self._lock.__enter__()
        except BaseException:
            self._watchdog.gave_up()
            raise
        self._watchdog.took()
        return True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._watchdog.left(self._mark)
        self._lock.__exit__(kind, error, at)


class _Shared:
    def __init__(self, lock: Shared, mark: Mark, watchdog: Watchdog) -> None:
        self.read: Mutex = _Mutex(lock.read, mark, watchdog)
        self.write: Mutex = _Mutex(lock.write, mark, watchdog)


class _Condition(_Mutex):
    def __init__(self, condition: Condition, mark: Mark, watchdog: Watchdog) -> None:
        super().__init__(condition, mark, watchdog)
        self._condition = condition

    def wait(self, timeout: float | None = None) -> bool:
        self._watchdog.left(self._mark)  # waiting for something to be so is no wait for the lock
        try:
            return self._condition.wait(timeout)
        finally:
            self._watchdog.has(self._mark)

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        self._watchdog.left(self._mark)
        try:
            return self._condition.wait_for(predicate, timeout)
        finally:
            self._watchdog.has(self._mark)

    def notify(self, n: int = 1) -> None:
        self._condition.notify(n)

    def notify_all(self) -> None:
        self._condition.notify_all()


class _AsyncMutex:
    def __init__(self, lock: AsyncMutex, mark: Mark, watchdog: Watchdog) -> None:
        self._lock = lock
        self._mark = mark
        self._watchdog = watchdog

    async def __aenter__(self) -> None:
        self._watchdog.asks(self._mark)
        try:
            await self._lock.__aenter__()
        except BaseException:
            self._watchdog.gave_up()
            raise
        self._watchdog.took()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._watchdog.left(self._mark)
        await self._lock.__aexit__(kind, error, at)


class _AsyncCondition(_AsyncMutex):
    def __init__(self, condition: AsyncCondition, mark: Mark, watchdog: Watchdog) -> None:
        super().__init__(condition, mark, watchdog)
        self._condition = condition

    async def wait(self) -> object:
        self._watchdog.left(self._mark)
        try:
            return await self._condition.wait()
        finally:
            self._watchdog.has(self._mark)

    async def wait_for(self, predicate: Callable[[], T]) -> T:
        while not (answer := predicate()):
            await self.wait()
        return answer

    def notify(self, n: int = 1) -> None:
        self._condition.notify(n)

    def notify_all(self) -> None:
        self._condition.notify_all()

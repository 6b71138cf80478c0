"""What locks are made of, by how they are to count."""

import asyncio
import threading
from collections.abc import Callable
from typing import Protocol

from narthex_server.sync.async_condition import AsyncCondition, OwnAsyncCondition
from narthex_server.sync.async_mutex import AsyncMutex, OwnAsyncMutex
from narthex_server.sync.condition import Condition, condition_over
from narthex_server.sync.meter import Meter, Unmetered
from narthex_server.sync.mutex import MeteredMutex, Mutex
from narthex_server.sync.shared import ExclusiveLock, Shared, SharedLock


class Making(Protocol):
    """Makes locks of every kind; those of one name are counted together, where they are counted."""

    def mutex(self, name: str) -> Mutex: ...

    def shared(self, name: str) -> Shared: ...

    def condition(self, name: str) -> Condition: ...

    def async_mutex(self, name: str) -> AsyncMutex: ...

    def async_condition(self, name: str) -> AsyncCondition: ...


class Metered:
    """Makes our own locks, with counts."""

    def __init__(self, meter: Callable[[str], Meter]) -> None:
        self._meter = meter

    def mutex(self, name: str) -> Mutex:
        return MeteredMutex(self._meter(name))

    def shared(self, name: str) -> Shared:
        return SharedLock(self._meter(name))

    def condition(self, name: str) -> Condition:
        return condition_over(MeteredMutex(self._meter(name)))

    def async_mutex(self, name: str) -> AsyncMutex:
        return OwnAsyncMutex(self._meter(name))

    def async_condition(self, name: str) -> AsyncCondition:
        return OwnAsyncCondition(OwnAsyncMutex(self._meter(name)))


class Off:
    """Makes our own locks, without counts; a mutex is then the standard library's."""

    def mutex(self, name: str) -> Mutex:
        return threading.Lock()

    def shared(self, name: str) -> Shared:
        return SharedLock(Unmetered())

    def condition(self, name: str) -> Condition:
        return threading.Condition(threading.Lock())

    def async_mutex(self, name: str) -> AsyncMutex:
        return OwnAsyncMutex(Unmetered())

    def async_condition(self, name: str) -> AsyncCondition:
        return OwnAsyncCondition(OwnAsyncMutex(Unmetered()))


class Plain:
    """Makes the standard library's; of locks to read and to write it has none, so that one who reads is alone too."""

    def mutex(self, name: str) -> Mutex:
        return threading.Lock()

    def shared(self, name: str) -> Shared:
        return ExclusiveLock(threading.Lock())

    def condition(self, name: str) -> Condition:
        return threading.Condition()

    def async_mutex(self, name: str) -> AsyncMutex:
        return asyncio.Lock()

    def async_condition(self, name: str) -> AsyncCondition:
        return asyncio.Condition()

"""The locks of a server."""

import threading
from collections.abc import Sequence
from typing import Literal

from narthex_server.sync.async_condition import AsyncCondition
from narthex_server.sync.async_mutex import AsyncMutex
from narthex_server.sync.condition import Condition
from narthex_server.sync.making import Making, Metered, Off, Plain
from narthex_server.sync.meter import Meter
from narthex_server.sync.mutex import Mutex
from narthex_server.sync.reading import LockReading
from narthex_server.sync.shared import Shared
from narthex_server.sync.watchdog import Watchdog
from narthex_server.sync.watched import Watched

Mode = Literal["metered", "plain", "off"]


class Locks:
    """Makes the named locks of a process, one kind for all, and says how each of them stands.

    `metered` counts; `off` has the same locks without counts, `plain` the standard library's instead. With a watchdog
    all of them tell it who holds what.
    """

    def __init__(self, mode: Mode = "off", watchdog: Watchdog | None = None) -> None:
        self._meters: dict[str, Meter] = {}
        self._guard = threading.Lock()
        making: Making
        match mode:
            case "metered":
                making = Metered(self._meter)
            case "off":
                making = Off()
            case "plain":
                making = Plain()
        self._making: Making = making if watchdog is None else Watched(making, watchdog)

    def mutex(self, name: str) -> Mutex:
        """For one thread at a time; not in order."""
        return self._making.mutex(name)

    def shared(self, name: str) -> Shared:
        """For many threads that read, or one that writes."""
        return self._making.shared(name)

    def condition(self, name: str) -> Condition:
        """For threads that wait until something is so."""
        return self._making.condition(name)

    def async_mutex(self, name: str) -> AsyncMutex:
        """For one task at a time, in order."""
        return self._making.async_mutex(name)

    def async_condition(self, name: str) -> AsyncCondition:
        """For tasks that wait until something is so."""
        return self._making.async_condition(name)

    def readings(self) -> Sequence[LockReading]:
        """How each lock stands, by name; none where they do not count. For any thread."""
        with self._guard:
            meters = sorted(self._meters.items())
        return [meter.reading() for _, meter in meters]

    def _meter(self, name: str) -> Meter:
        with self._guard:
            return self._meters.setdefault(name, Meter(name))


UNMETERED = Locks()
"""For what stands alone: makes locks that nobody reads."""

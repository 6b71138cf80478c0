"""The locks of a server, counted and watched as configured."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from prometheus_client import CollectorRegistry

from narthex_server.config.server import ServerConfig
from narthex_server.metrics.locks import LockMetrics
from narthex_server.sync.locks import Locks
from narthex_server.sync.watchdog import Watchdog

WATCH_INTERVAL = 1.0
"""Seconds between two looks of the watchdog at the locks."""


@contextmanager
def locking(config: ServerConfig, registry: CollectorRegistry) -> Iterator[Locks]:
    """The locks of this process, in the metrics; within the block a watchdog looks at them, where one is wanted."""
    dog = Watchdog(config.lock_watchdog) if config.lock_watchdog else None
    locks = Locks(config.locks, dog)
    LockMetrics(registry, locks.readings)
    with dog.looking(WATCH_INTERVAL) if dog else nullcontext():
        yield locks

"""Waiting, with a lock given back meanwhile, until something is so."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TypeVar, cast

from narthex_server.sync.mutex import WaitingMutex

T = TypeVar("T")


class Condition(Protocol):
    """What threading.Condition is; held within a `with`, as all that is done with it must be."""

    def __enter__(self) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None, /
    ) -> None: ...

    def wait(self, timeout: float | None = None) -> bool:
        """Gives the lock back until somebody notifies; False where `timeout` seconds were over before."""

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Waits until the predicate holds, or `timeout` seconds are over; its last answer."""

    def notify(self, n: int = 1) -> None:
        """Wakes so many, those first who have waited longest."""

    def notify_all(self) -> None:
        """Wakes all."""


def condition_over(mutex: WaitingMutex) -> Condition:
    """One whose lock counts. What is waited for within `wait` is the condition, and the lock only from then on."""
    return threading.Condition(cast(threading.Lock, mutex))

"""The requests for models that are in work."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from narthex_bridge.protocol.failures import BackendError

Result = TypeVar("Result")


class Work:
    """Takes work while there is room and the process is not draining."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: set[asyncio.Task[Any]] = set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Begins work, which cancelling the task ends. Raises BackendError where no more is taken."""
        if self._draining or len(self._running) >= self._limit:
            work.close()
            raise self._refusal()
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Does work; ends with it, or with BackendError where the process ends first."""
        task = self.start(work)
        try:
            return await task
        except asyncio.CancelledError:
            if (own := asyncio.current_task()) is not None and own.cancelling():
                raise
            raise shutting_down() from None

    async def drain(self, grace_s: float) -> None:
        """Takes no new work; what runs finishes, or is cancelled when the grace is over."""
        self._draining = True
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    def _refusal(self) -> BackendError:
        if self._draining:
            return shutting_down()
        return BackendError("RESOURCE_EXHAUSTED", "The bridge has as many calls in work as it may.", reason="MAX_CALLS")


def shutting_down() -> BackendError:
    return BackendError("UNAVAILABLE", "The bridge is shutting down.", reason="DRAINING")

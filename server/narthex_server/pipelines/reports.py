"""The progress of a load, from its thread to whoever waits."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType

from narthex_server.errors import Cancelled
from narthex_server.progress import Stage

_SHARES: Mapping[Stage, tuple[float, float]] = MappingProxyType(
    {Stage.READ: (0.0, 0.4), Stage.BUILD: (0.4, 0.8), Stage.START: (0.8, 1.0)}
)
"""Which part of the whole a stage is."""
_STEP = 0.01


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load is; `fraction` is of the whole, 0 to 1, and never falls."""

    stage: Stage
    fraction: float


class Reports:
    """The progress of one load on its way from the thread to whoever asked for it."""

    def __init__(self) -> None:
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[LoadProgress | None] = asyncio.Queue()
        self._stage: Stage | None = None
        self._told = 0.0

    def __call__(self, stage: Stage, fraction: float) -> None:
        """In the loading thread. Errors: Cancelled where nobody wants the model any more."""
        if self.cancelled:
            raise Cancelled("the load was given up")
        first, last = _SHARES[stage]
        whole = max(self._told, first + (last - first) * fraction)
        if stage is not self._stage or whole - self._told >= _STEP:
            self._stage, self._told = stage, whole
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._queue.put_nowait, LoadProgress(stage, whole))

    async def next(self) -> LoadProgress | None:
        """The next one; None after the last."""
        return await self._queue.get()

    def cancel(self) -> None:
        self.cancelled = True

    def end(self) -> None:
        self._queue.put_nowait(None)

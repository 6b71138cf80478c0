"""Whether a connected server still answers."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


class Unhealthy(Exception):
    """An answer that is none."""


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """A question every `interval` seconds, each with `timeout` seconds; so many `misses` in a row are too many."""

    interval: float = 30.0
    timeout: float = 10.0
    misses: int = 2


class Health:
    """Asks a server again and again, at moments that are not those of the others."""

    def __init__(self, settings: HealthSettings, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        self._settings = settings
        self._sleep = sleep
        self.failures = 0

    async def watch(self, ask: Callable[[], Awaitable[None]], busy: Callable[[], bool]) -> str:
        """Returns why the server counts as lost, once it does.

        After a miss it is asked again soon. A miss counts for nothing while the server is `busy`: many serve one
        request after the other, and a long call must not cost the connection.
        """
        missed = 0
        while True:
            if not missed:
                await self._sleep(self._settings.interval * random.uniform(0.9, 1.1))
            try:
                async with asyncio.timeout(self._settings.timeout):
                    await ask()
                missed = 0
                continue
            except TimeoutError:
                pause = 0.0
            except Unhealthy:
                pause = self._settings.timeout
            self.failures += 1
            missed = 0 if busy() else missed + 1
            if missed >= self._settings.misses:
                return f"did not answer {missed} health checks in a row"
            await self._sleep(pause)

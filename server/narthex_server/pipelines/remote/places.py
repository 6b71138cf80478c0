"""How many requests a remote engine gets at once."""

import asyncio

from narthex_server.errors import ResourceExhausted


class Places:
    """`count` requests run, `most_waiting` more wait for their turn, the others are refused."""

    def __init__(self, count: int, most_waiting: int) -> None:
        self.count = count
        self.waiting = 0
        self._most_waiting = most_waiting
        self._free = asyncio.Semaphore(count)
        self._running = 0

    @property
    def running(self) -> int:
        return self._running

    async def take(self) -> None:
        """Waits for a place, which `give` returns. Errors: ResourceExhausted."""
        if self._free.locked() and self.waiting >= self._most_waiting:
            raise ResourceExhausted(
                f"{self.waiting} requests are waiting for this remote model, the limit; retry in a moment",
                reason="QUEUE_FULL",
                metadata={"max_waiting": str(self._most_waiting), "retry_after_seconds": "1"},
            )
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self._running += 1

    def give(self) -> None:
        self._running -= 1
        self._free.release()

"""One request to an engine, which somebody else may end."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class Aborted(Exception):
    """Somebody ended the request."""


class Call:
    """What a request waits for, so that somebody else can end it wherever it is; `done` once the engine said so."""

    def __init__(self, request_id: str, index: int = 0) -> None:
        self.request_id = request_id
        self.index = index
        self.done = False
        self._aborted = False
        self._limit: asyncio.Timeout | None = None

    async def wait(self, awaited: Awaitable[T], seconds: float | None = None) -> T:
        """What `awaited` gives. Errors: TimeoutError after `seconds`; Aborted."""
        try:
            async with asyncio.timeout(0 if self._aborted else seconds) as self._limit:
                return await awaited
        except TimeoutError:
            if self._aborted:
                raise Aborted from None
            raise
        finally:
            self._limit = None

    def abort(self) -> None:
        self._aborted = True
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time())

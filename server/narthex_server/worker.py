"""Threads as the event loop sees them: one that alone touches a session, and those for a single piece of work."""

import asyncio
import logging
import queue
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, ParamSpec, TypeVar, cast

from narthex_server.errors import InternalError, Unavailable

log = logging.getLogger(__name__)

STOP_SECONDS = 30.0
"""How long native code may still take once everything is cancelled, before its thread is given up."""

M = TypeVar("M")
P = ParamSpec("P")
T = TypeVar("T")


class Worker(Generic[M]):
    """The thread of the `name` ("engine"), which takes messages from `inbox`; use from one event loop.

    Whoever owns it sets `idle` while no request runs, and notes when the thread has `ended`.
    """

    def __init__(self, name: str) -> None:
        self.inbox: queue.SimpleQueue[M] = queue.SimpleQueue()
        self.idle = asyncio.Event()
        self.idle.set()
        self._name = name
        self._refusal: str | None = f"the {name} is not started"
        self._ended = asyncio.Event()
        self._thread: threading.Thread | None = None

    def start(self, run: Callable[[], None]) -> None:
        """Start the thread; call once."""
        self._thread = threading.Thread(target=run, name=f"narthex-{self._name}", daemon=True)
        self._refusal = None
        self._thread.start()

    def check(self) -> None:
        """Errors: Unavailable before the start, and from the moment of stopping or of the thread's death."""
        if self._refusal is not None:
            raise self.refusal()

    def ended(self) -> None:
        """Note that the thread sends no more."""
        self._refusal = self._refusal or f"the {self._name} has died; the log says why"
        self._ended.set()

    def refusal(self) -> Unavailable:
        """What to tell those who wait for the thread once it has ended."""
        return Unavailable(f"{self._refusal}; retry later or elsewhere")

    async def stop(self, grace: float, *messages: M, running: Callable[[], int]) -> bool:
        """Refuse what comes and send all `messages` but the last; that one when all is idle, or after `grace` seconds.

        True once the thread is over; False if it never was, or hangs in native code.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return False
        self._refusal = self._refusal or f"the {self._name} is shutting down"
        *first, last = messages
        for message in first:
            self.inbox.put(message)
        try:
            async with asyncio.timeout(grace):
                await self.idle.wait()
        except TimeoutError:
            log.info("%d requests still running after %g s are cancelled", running(), grace)
        self.inbox.put(last)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._ended.wait()
        except TimeoutError:
            log.error("the thread of the %s is stuck in native code; leaving it behind", self._name)
            return False
        thread.join()
        return True


def failure(name: str, what: str, error: Exception) -> InternalError:
    """Log an error in the thread of the `name`; what its callers may know of it."""
    error_id = uuid.uuid4().hex[:12]
    log.error("error %s: %s", error_id, what, exc_info=error)
    return InternalError(f"the {name} failed; error id {error_id}", metadata={"error_id": error_id})


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like asyncio.to_thread, but a process that is told to stop need not wait for the thread."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result, error = work(*args, **kwargs), None
        except BaseException as caught:
            result, error = None, caught
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(T, result))

    threading.Thread(target=run, daemon=True).start()
    return await future

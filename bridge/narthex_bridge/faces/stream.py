"""An answer that comes in pieces: events of the server on one side, server-sent events on the other."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Generic, Protocol, Self, TypeVar

from narthex_bridge.faces.work import Work, shutting_down
from narthex_bridge.http.messages import Tally
from narthex_bridge.http.refusal import Refusal
from narthex_bridge.outbox import Backlog
from narthex_bridge.protocol.failures import BackendError
from narthex_bridge.protocol.sse import KEEPALIVE

logger = logging.getLogger(__name__)

Event = TypeVar("Event")
Event_contra = TypeVar("Event_contra", contravariant=True)


class Translation(Protocol[Event_contra]):
    """How a face tells the events of one answer; every piece is whole server-sent events, or empty."""

    def tell(self, events: Sequence[Event_contra]) -> bytes:
        """What has come since the last time: several events when the reader lags, which may share one; none after a
        silence, for a sign of life that is better than a comment.

        Raises Refusal where an event needs what this face cannot give: the work ends.
        """

    def end(self) -> bytes:
        """After the last event."""

    def fail(self, refusal: Refusal) -> bytes:
        """Instead of what would still have come."""


class Stream(Generic[Event]):
    """Runs the work behind an answer and tells its events as the client reads them; closing it cancels the work.

    The server is read only so far ahead of the client: a slow reader holds back its own answer and nothing else.
    """

    def __init__(self, translation: Translation[Event], keepalive_s: float, request_id: str) -> None:
        self._translation = translation
        self._keepalive_s = keepalive_s
        self._request_id = request_id
        self._backlog: Backlog[Event] = Backlog()
        self._begun = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failure: Refusal | None = None
        self._ended = False
        self.tally = Tally()

    async def open(self, work: Work, events: AsyncGenerator[Event, None], patience_s: float) -> None:
        """Begins; returns at the first event, or after `patience_s` of silence.

        Raises Refusal or BackendError where the answer fails before that: the status can still say so.
        """
        self._task = work.start(self._feed(events))
        try:
            async with asyncio.timeout(patience_s):
                await self._begun.wait()
        except TimeoutError:
            return
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if self._failure is not None and self._backlog.empty:
            raise self._failure

    async def _feed(self, events: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    await self._backlog.put(event)
                    self._begun.set()
        except BackendError as failure:
            self._failure = Refusal.of(failure)
        except Refusal as refusal:
            self._failure = refusal
        except asyncio.CancelledError:
            self._failure = Refusal.of(shutting_down())
        except Exception:
            logger.exception("request %s failed", self._request_id)
            text = f"The bridge failed to do this; its log has more under request id {self._request_id}."
            self._failure = Refusal(500, text, reason="INTERNAL")
        finally:
            self._backlog.close()
            self._begun.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """What has come, as soon as there is anything; a sign of life after each `keepalive_s` of silence."""
        if self._ended:
            raise StopAsyncIteration
        while (events := await self._backlog.take(self._keepalive_s)) is not None:
            self.tally.events += len(events)
            try:
                told = self._translation.tell(events)
            except Refusal as refusal:
                await self.aclose()
                self._ended = True
                return self._translation.fail(refusal)
            if told or not events:
                return told or KEEPALIVE
        self._ended = True
        return self._translation.fail(self._failure) if self._failure else self._translation.end()

    async def aclose(self) -> None:
        # Not a generator: one that never began would not run its `finally`, and the work would go on for nobody.
        if self._task is not None:
            self._task.cancel()
        self._backlog.close()

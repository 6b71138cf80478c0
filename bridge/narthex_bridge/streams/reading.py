"""One HTTP response that reads a resumable stream."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from narthex_bridge.http.messages import Tally
from narthex_bridge.metrics import Metrics
from narthex_bridge.protocol import sse
from narthex_bridge.stores.store import StoreUnavailable
from narthex_bridge.streams.place import prefix
from narthex_bridge.streams.source import LOST, Source


@dataclass(frozen=True, slots=True)
class Manners:
    """How responses are held open: signs of life, the longest life (0: no end), the client's wait before it comes back.

    `numbered`: events have ids. `polls`: the client knows that a stream may be closed before its end, and is given an
    id at once (SEP-1699).
    """

    keepalive_s: float
    lifetime_s: float
    retry_s: float
    numbered: bool
    polls: bool


class Reading:
    """Sends what comes after a place of a stream, until the stream ends, or goes to another reader, or life is over."""

    __slots__ = (
        "_begun", "_closing", "_manners", "_metrics", "_number", "_prefix", "_source", "_unseen", "_until", "tally",
    )  # fmt: skip

    def __init__(
        self,
        source: Source,
        session: str,
        stream: str,
        number: int,
        manners: Manners,
        metrics: Metrics,
        unseen: Callable[[], None] | None = None,
    ) -> None:
        """`unseen` is called instead of the source's `leave` if the client goes before it could see an id."""
        self._source = source
        self._prefix = prefix(session, stream).encode()
        self._number = number
        self._manners = manners
        self._metrics = metrics
        self._unseen = unseen
        self._begun = False
        self._closing = False
        loop = asyncio.get_running_loop()
        self._until = loop.time() + manners.lifetime_s if manners.polls and manners.lifetime_s else None
        self.tally = Tally()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        loop, first, opening = asyncio.get_running_loop(), not self._begun, b""
        if self._closing:
            raise StopAsyncIteration
        self._begun = True
        if first and self._manners.polls:
            self._unseen = None
            opening = sse.priming(self._prefix + b"%d" % self._number, self._retry_ms)
        elif self._until is not None and self._until <= loop.time():
            return self._close()
        patience = 0.0 if opening else self._manners.keepalive_s  # what waits already goes along with the opening
        if self._until is not None:
            patience = min(patience, self._until - loop.time())
        try:
            events = await self._source.after(self, self._number, patience)
        except StoreUnavailable:
            return self._close(opening)  # the client comes back for the rest
        if events is None:
            if self._source.finite and not opening:
                raise StopAsyncIteration
            return self._close(opening)
        return opening + self._frames(events) or sse.KEEPALIVE

    async def aclose(self) -> None:
        # Not a generator: one that never began would not run its `finally`, and nobody would know that it is over.
        if self._unseen is not None:
            self._unseen()
        self._source.leave(self)

    @property
    def _retry_ms(self) -> int:
        return int(self._manners.retry_s * 1000)

    def _close(self, opening: bytes = b"") -> bytes:
        """The last frame: when to come back."""
        self._closing = True
        frame = opening + (sse.retry(self._retry_ms) if self._manners.polls else b"")
        if not frame:
            raise StopAsyncIteration
        return frame

    def _frames(self, events: list[tuple[int, bytes]]) -> bytes:
        frames = []
        for number, message in events:
            if message == LOST:
                lost = number - self._number
                self._metrics.lost_events.inc(lost)
                frames.append(sse.comment(b"%d events are lost" % lost))
            else:
                self._unseen = None
                self.tally.events += 1
                named = self._manners.numbered
                frames.append(sse.numbered(self._prefix + b"%d" % number, message) if named else sse.message(message))
            self._number = number
        return b"".join(frames)

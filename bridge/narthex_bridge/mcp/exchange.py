"""One HTTP request that carries JSON-RPC requests, and its answer: JSON, or a stream once there is more to tell."""

import asyncio
from collections.abc import Iterable
from typing import Self

from narthex_bridge.http.messages import Tally
from narthex_bridge.mcp.dispatcher import Dispatcher
from narthex_bridge.mcp.framing import Framing
from narthex_bridge.outbox import Outbox
from narthex_bridge.protocol import sse
from narthex_bridge.protocol.jsonrpc import Request
from narthex_bridge.sessions.session import Session


class Exchange:
    """Runs requests and collects what they answer; ending it, at any point, cancels what is still in work."""

    def __init__(self, framing: Framing, expected: int, keepalive_s: float) -> None:
        self._framing = framing
        self._expected = expected
        self._keepalive_s = keepalive_s
        self._answers: list[bytes] = []
        self._notified = False
        self._settled = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.outbox = Outbox()
        self.tally = Tally()
        self.code = 0
        """Of the last JSON-RPC error, 0 where there was none."""

    @property
    def converses(self) -> bool:
        return self._framing.converses

    @property
    def lagging(self) -> bool:
        return self.outbox.lagging

    def start(self, dispatcher: Dispatcher, requests: Iterable[Request], session: Session, request_id: str) -> None:
        self._tasks = [dispatcher.start(request, session, request_id, self) for request in requests]

    async def notify(self, message: bytes) -> None:
        if not (frame := self._framing.notification(message)):
            return
        self._notified = True
        self._settled.set()
        await self.outbox.put(frame)

    def respond(self, message: bytes, code: int) -> None:
        self._answers.append(message)
        self.code = code or self.code
        self.outbox.offer(self._framing.response(message, code))
        if len(self._answers) == self._expected:
            self._settled.set()
            self.outbox.close()

    def called(self, seconds: float) -> None:
        self.tally.calls += 1
        self.tally.server_s += seconds

    async def answers(self, patience_s: float | None) -> list[bytes] | None:
        """All responses, if they come within `patience_s` (None: the calls' own deadlines count) and no notification
        before them; otherwise None: stream."""
        try:
            async with asyncio.timeout(patience_s):
                await self._settled.wait()
        except TimeoutError:
            return None
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._notified or len(self._answers) < self._expected:
            return None
        self.tally.events = self._expected
        return self._answers

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next events, from the first message on; a comment after each `keepalive_s` of silence."""
        frames = await self.outbox.take(self._keepalive_s)
        if frames is None:
            raise StopAsyncIteration
        self.tally.events += len(frames)
        return b"".join(frames) or sse.KEEPALIVE

    async def aclose(self) -> None:
        # Not a generator: one that never began would not run its `finally`, and its calls would go on for nobody.
        self.cancel()

    def cancel(self) -> None:
        """Ends the calls, and forgets what they answer."""
        self.cancel_calls()
        self.outbox.close()

    def cancel_calls(self) -> None:
        """Ends the calls, which answer that they were cancelled."""
        for task in self._tasks:
            task.cancel()

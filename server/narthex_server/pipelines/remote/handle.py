"""The event loop's side of a model that another server runs."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import orjson

from narthex_server.engine.observer import EngineStats
from narthex_server.errors import (
    FailedPrecondition,
    InvalidRequest,
    NarthexError,
    ResourceExhausted,
    Unavailable,
)
from narthex_server.lot.limits import Limits
from narthex_server.lot.pool import Pool
from narthex_server.lot.units import Units
from narthex_server.pipelines.call import Aborted, Call
from narthex_server.pipelines.events import Usage
from narthex_server.pipelines.remote.connection import Answer, Connection
from narthex_server.pipelines.remote.facts import Facts, read_facts
from narthex_server.pipelines.remote.observer import RemoteObserver, Unobserved
from narthex_server.pipelines.remote.refusals import Refusals
from narthex_server.pipelines.remote.sse import SseParser, TooLong

LONGEST_REFUSAL = 64 * 1024
LONGEST_ANSWER = 128 * 1024 * 1024
END_SECONDS = 0.1
"""How long an engine may take to end its answer after it said that it has; then the connection is given up."""
SLOTS = "slots"
ONE: Units = MappingProxyType({SLOTS: 1})
_DONE = b"[DONE]"
_OUTCOMES = (
    (InvalidRequest, "invalid"),
    (FailedPrecondition, "refused"),
    (ResourceExhausted, "busy"),
    (Unavailable, "unavailable"),
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteLimits:
    """How many requests run and wait, and seconds: of silence within an answer, and between two looks at the engine."""

    requests: int = 64
    waiting: int = 256
    silence: float = 300.0
    look_silence: float = 10.0
    interval: float = 30.0


class RemoteHandle:
    """Sends requests to one model of a remote engine, and knows whether it is there; for one event loop.

    `model` is its name there; empty is the first that the engine lists.
    """

    def __init__(
        self,
        connection: Connection,
        refusals: Refusals,
        model: str = "",
        limits: RemoteLimits = RemoteLimits(),
        observer: RemoteObserver | None = None,
    ) -> None:
        self.observer: RemoteObserver = observer or Unobserved()
        self.refusals = refusals
        self.facts = Facts(model)
        self.failure = ""
        self.dimensions = 0
        self._model = model
        self._connection = connection
        self._limits = limits
        self._pool = Pool(f"model/{refusals.model}", {SLOTS: limits.requests}, Limits(limits.waiting))
        self._calls: set[Call] = set()
        self._looking: asyncio.Task[None] | None = None
        self._closed = False
        self._spent = Usage()

    @property
    def slots(self) -> int:
        """Requests that are sent at once."""
        return self._limits.requests

    def snapshot(self) -> EngineStats:
        """What runs and waits, and what was spent so far."""
        spent = self._spent
        return EngineStats(
            self.slots, self._pool.running, self._pool.waiting,
            prompt_tokens=spent.prompt_tokens, cached_tokens=spent.cached_tokens,
            generated_tokens=spent.completion_tokens,
        )  # fmt: skip

    def requests(self) -> int:
        """How many run or wait."""
        return self._pool.running + self._pool.waiting

    def spend(self, usage: Usage) -> None:
        """Counts what an answer took."""
        self._spent += usage

    def start(self, pool: Pool | None = None) -> None:
        """Look at the engine from time to time, and have requests wait at the pool; call once, in the event loop."""
        self._pool = pool or self._pool
        self._looking = asyncio.create_task(self._watch())

    async def stop(self, grace: float) -> None:
        """End all that runs, then hang up."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for call in self._calls:
            call.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._connection.close()

    def abort(self, request_id: str) -> bool:
        """Ends all requests of an id with what they have; False if there is none."""
        named = [call for call in self._calls if call.request_id == request_id]
        for call in named:
            call.abort()
        return bool(named)

    async def look(self) -> None:
        """Learn what the engine is now, or why it cannot be used; never fails."""
        try:
            await self._learn()
        except NarthexError as error:
            unlisted = error.metadata.get("http_status") in ("404", "405", "501")  # which some do without
            self.failure = "" if unlisted and self._model else error.message
        else:
            self.failure = ""

    async def known(self) -> Facts:
        """The facts, which name the model. Errors: as of `chunks`, where the engine has not told them yet."""
        if not self.facts.model:
            with self.exchange():
                await self._learn()
        return self.facts

    @asynccontextmanager
    async def call(self, request_id: str, index: int = 0) -> AsyncIterator[Call]:
        """Waits for the turn of the block's request. Errors: Unavailable; those of Pool.admit; Aborted."""
        if self._closed:
            raise self.refusals.unreachable("is not used any more")
        call = Call(request_id, index)
        self._calls.add(call)
        try:
            with await call.wait(self._pool.admit(ONE)):
                yield call
        finally:
            self._calls.discard(call)

    async def chunks(self, call: Call, path: str, body: dict[str, Any]) -> AsyncGenerator[Any]:
        """Yields None once the engine has accepted the request, then what it sends, parsed; `call.done` if it says so.

        Closing it hangs up. Errors: those of `Refusals`; Aborted.
        """
        silence = self._limits.silence
        async with self._opened(call, path, _encoded(body), silence) as answer:
            yield None
            if not answer.streams:
                yield await self._json(call, answer, silence)
                call.done = True
                return
            parser = SseParser()
            async with aclosing(cast(AsyncGenerator[bytes], answer.chunks())) as pieces:
                while (piece := await self._next(call, pieces, silence)) is not None:
                    for data in self._events(parser, piece):
                        if data == _DONE:
                            call.done = True
                            await self._drain(call, pieces)
                            return
                        yield self._parsed(data)

    async def ask(self, call: Call, path: str, body: dict[str, Any]) -> Any:
        """One answer that is not streamed. Errors: as of `chunks`."""
        async with self._opened(call, path, _encoded(body), self._limits.silence) as answer:
            return await self._json(call, answer, self._limits.silence)

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """One request and its answer, whose outcome also tells whether the engine is there."""
        outcome = "error"
        try:
            yield
            outcome, self.failure = "ok", ""
        except (asyncio.CancelledError, GeneratorExit, Aborted):
            outcome = "cancelled"
            raise
        except NarthexError as error:
            outcome = next((name for kind, name in _OUTCOMES if isinstance(error, kind)), outcome)
            if isinstance(error, Unavailable) or error.reason == "REMOTE_REFUSED":
                self.failure = error.message
            raise
        finally:
            with self.unharmed():
                self.observer.on_exchange(outcome)

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """Go on after an observer's failure, which no request must feel."""
        try:
            yield
        except Exception:
            _log.exception("the observer of remote model %s failed", self.refusals.model)

    @asynccontextmanager
    async def _opened(self, call: Call, path: str, body: bytes | None, seconds: float) -> AsyncIterator[Answer]:
        """An answer that is not a refusal."""
        async with AsyncExitStack() as stack:
            opening = stack.enter_async_context(self._connection.open(path, body))
            try:
                answer = await call.wait(opening, seconds)
            except TimeoutError as error:
                raise self.refusals.unreachable(f"did not answer within {seconds:g} seconds") from error
            if answer.status != 200:
                refusal = await self._body(call, answer, LONGEST_REFUSAL, seconds)
                raise self.refusals.status(answer.status, refusal, answer.retry_after)
            yield answer

    async def _drain(self, call: Call, pieces: AsyncIterator[bytes]) -> None:
        """Read to the end, so that the connection can be used again."""
        with suppress(NarthexError):
            while await self._next(call, pieces, END_SECONDS) is not None:
                pass

    async def _json(self, call: Call, answer: Answer, seconds: float) -> Any:
        data = await self._body(call, answer, LONGEST_ANSWER, seconds)
        if len(data) >= LONGEST_ANSWER:
            raise self.refusals.broken(f"sent an answer of more than {LONGEST_ANSWER} bytes")
        return await asyncio.to_thread(self._parsed, data) if len(data) > LONGEST_REFUSAL else self._parsed(data)

    async def _body(self, call: Call, answer: Answer, most: int, seconds: float) -> bytes:
        """The first `most` bytes of a body."""
        found = bytearray()
        async with aclosing(cast(AsyncGenerator[bytes], answer.chunks())) as pieces:
            while len(found) < most and (piece := await self._next(call, pieces, seconds)) is not None:
                found += piece
        return bytes(found[:most])

    async def _next(self, call: Call, pieces: AsyncIterator[bytes], seconds: float) -> bytes | None:
        try:
            return await call.wait(anext(pieces, None), seconds)
        except TimeoutError as error:
            raise self.refusals.unreachable(f"was silent for {seconds:g} seconds") from error

    def _events(self, parser: SseParser, piece: bytes) -> Iterator[bytes]:
        try:
            events = parser.feed(piece)
        except TooLong as error:
            raise self.refusals.broken(f"sent {error}") from error
        return (event.data for event in events)

    def _parsed(self, data: bytes) -> Any:
        try:
            return orjson.loads(data)
        except ValueError as error:
            raise self.refusals.broken("sent what is not JSON") from error

    async def _learn(self) -> None:
        """Ask the engine for its facts. Errors: those of `Refusals`."""
        call, seconds = Call(""), self._limits.look_silence
        try:
            async with asyncio.timeout(seconds), self._opened(call, "models", None, seconds) as answer:
                facts = read_facts(await self._json(call, answer, seconds), self._model)
        except TimeoutError as error:
            raise self.refusals.unreachable(f"did not say what it is within {seconds:g} seconds") from error
        if not facts.model:
            raise self.refusals.broken("lists no model")
        self.facts = facts

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._limits.interval)
            await self.look()


def _encoded(body: dict[str, Any]) -> bytes:
    """A body as JSON, whole numbers of any size included. Errors: InvalidRequest for what JSON does not have."""
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the request holds a number that JSON does not have, or is nested too deeply") from error

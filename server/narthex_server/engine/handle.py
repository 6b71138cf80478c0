"""The event loop's side of the engine."""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from narthex_server.engine.adapters import AdapterInfo, Adapters
from narthex_server.engine.decoder import DecoderSession
from narthex_server.engine.loop import EngineLoop
from narthex_server.engine.messages import (
    Abort,
    Batch,
    Drain,
    Ended,
    LoadAdapter,
    Message,
    Stop,
    Submit,
    UnloadAdapter,
)
from narthex_server.engine.observer import EngineObserver, EngineStats
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineEvent, EngineRequest, Finished, PromptScores, Tokens
from narthex_server.engine.sampling.logprobs import PositionLogprobs
from narthex_server.errors import (
    ContextOverflow,
    NarthexError,
    ResourceExhausted,
    Violation,
    invalid,
)
from narthex_server.worker import Worker

log = logging.getLogger(__name__)

Over = Callable[[Finished | None], None]
"""Told once when the engine has nothing more to do for a request, and how it ended unless that was an error or nobody
wants to know; its events may be read later."""


@dataclass(slots=True)
class Stream:
    """The unread part of one request's output."""

    request_id: str
    index: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    prompt: list[PositionLogprobs] = field(default_factory=list)
    ended: Ended | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    over: Over = field(default=lambda finished: None)


class EngineHandle:
    """Generates with one decoder, which it owns from here on; use from the event loop that called `start`."""

    def __init__(
        self,
        session: DecoderSession,
        options: EngineOptions = EngineOptions(),  # noqa: B008 (frozen)
        observer: EngineObserver | None = None,
    ) -> None:
        self._session = session
        self._options = options
        self._observer = observer
        self._worker: Worker[Message] = Worker("engine")
        self._inbox = self._worker.inbox
        self._streams: dict[int, Stream] = {}
        self._keys = itertools.count()
        self._adapters = Adapters(session.adapters)
        self._changes: dict[int, asyncio.Future[None]] = {}
        room = session.slots * session.max_len
        room = room if options.kv_tokens is None else min(options.kv_tokens, room)
        self._context = min(session.max_len, room)
        self._stats = EngineStats(session.slots, kv_tokens_capacity=room)

    @property
    def slots(self) -> int:
        return self._session.slots

    @property
    def max_context(self) -> int:
        """Tokens that prompt and output may have together: what a slot takes, and all slots together."""
        return self._context

    @property
    def vocab_size(self) -> int:
        return self._session.vocab_size

    def start(self) -> None:
        """Starts the engine thread; call once, in the event loop."""
        event_loop = asyncio.get_running_loop()

        def send(batch: Batch) -> None:
            event_loop.call_soon_threadsafe(self._deliver, batch)

        self._worker.start(EngineLoop(self._session, self._options, self._inbox, send).run)

    def check(self, request: EngineRequest) -> None:
        """Refuses what cannot be run, whoever else runs. Errors: as `generate`, ResourceExhausted apart."""
        self._worker.check()
        self._validate(request)
        self._adapters.mix(request.adapters)

    async def generate(
        self, request: EngineRequest, came: float | None = None, over: Over | None = None
    ) -> AsyncGenerator[EngineEvent]:
        """Yields PromptScores if asked for, Tokens, then one Finished.

        Closing it, or cancelling its task, frees the slot within one step. `came` is when its caller began to wait, on
        the monotonic clock, if that was before.
        Raises InvalidRequest, ContextOverflow, NotFound (an adapter), ResourceExhausted or Unavailable before the first
        event, InternalError anywhere.
        """
        self._admit(request)
        mixture = self._adapters.mix(request.adapters)
        stream, key = Stream(request.request_id, request.index), next(self._keys)
        stream.over = over or stream.over
        self._streams[key] = stream
        self._worker.idle.clear()
        self._inbox.put(Submit(key, request, time.monotonic() if came is None else came, mixture))
        try:
            while True:
                if stream.prompt:
                    scores, stream.prompt = tuple(stream.prompt), []
                    yield PromptScores(scores)
                elif stream.tokens:
                    ids, stream.tokens = tuple(stream.tokens), []
                    logprobs, stream.logprobs = tuple(stream.logprobs), []
                    yield Tokens(ids, logprobs)
                elif stream.ended is None:
                    stream.ready.clear()
                    await stream.ready.wait()
                elif stream.ended.error is not None:
                    raise stream.ended.error
                elif stream.ended.finished is not None:
                    yield stream.ended.finished
                    return
        finally:
            if stream.ended is None:
                self._inbox.put(Abort(key))
                self._forget(key)

    def check_content(self, request: EngineRequest) -> None:
        """Raises what `generate` would of a request whenever it came: InvalidRequest, ContextOverflow, NotFound."""
        self._validate(request)
        self._adapters.mix(request.adapters)

    def abort(self, request_id: str, index: int | None = None) -> bool:
        """Ends all requests of an id, or that of one index, with Finished(CANCELLED); False if there is none."""
        named = [(key, stream) for key, stream in self._streams.items() if stream.request_id == request_id]
        keys = [key for key, stream in named if index is None or stream.index == index]
        for key in keys:
            self._inbox.put(Abort(key))
        return bool(keys)

    @property
    def adapts(self) -> bool:
        """Whether the model was loaded with room for adapters."""
        return self._session.adapters is not None

    @property
    def adapters(self) -> tuple[AdapterInfo, ...]:
        """The adapters that requests may name."""
        return tuple(self._adapters)

    async def load_adapter(self, info: AdapterInfo, adapter: Any) -> None:
        """Adds an adapter between two steps; running streams go on. It is added even if the caller is gone by then.

        Errors: FailedPrecondition, AlreadyExists, ResourceExhausted, Unavailable.
        """
        self._worker.check()
        place = self._adapters.reserve(info.name, adapter)
        change = self._change(lambda ticket: LoadAdapter(ticket, place, adapter))
        change.add_done_callback(lambda done: self._adapters.settle(info, place, loaded=done.exception() is None))
        await asyncio.shield(change)

    async def unload_adapter(self, name: str) -> None:
        """Removes an adapter once the requests that use it have ended; no later one may name it. Errors: NotFound."""
        self._worker.check()
        place = self._adapters.remove(name)
        change = self._change(lambda ticket: UnloadAdapter(ticket, place))
        change.add_done_callback(lambda done: self._adapters.release(place, done.exception()))
        await asyncio.shield(change)

    def snapshot(self) -> EngineStats:
        return self._stats

    async def stop(self, grace: float) -> None:
        """Refuses new requests, gives running ones `grace` seconds, cancels the rest, then closes the session."""
        if await self._worker.stop(grace, Drain(), Stop(), running=lambda: len(self._streams)):
            await asyncio.to_thread(self._session.close)

    def _change(self, message: Callable[[int], Message]) -> asyncio.Future[None]:
        """Has the thread change its adapters."""
        ticket = next(self._keys)
        self._changes[ticket] = asyncio.get_running_loop().create_future()
        self._inbox.put(message(ticket))
        return self._changes[ticket]

    def _admit(self, request: EngineRequest) -> None:
        self._worker.check()
        self._validate(request)
        live, limit = len(self._streams), self.slots + self._options.max_waiting
        if live >= limit:
            raise ResourceExhausted(
                f"{self.slots} requests are running and {live - self.slots} are waiting, the limit; retry in a moment",
                reason="QUEUE_FULL",
                metadata={
                    "running": str(self.slots),
                    "waiting": str(live - self.slots),
                    "max_waiting": str(self._options.max_waiting),
                    "retry_after_seconds": "1",
                },
            )

    def _validate(self, request: EngineRequest) -> None:
        prompt, violations = request.prompt, [*request.validate(self.vocab_size)]
        name = (request.request_id, request.index)
        if any((stream.request_id, stream.index) == name for stream in self._streams.values()):
            violations.append(Violation("request_id", f"{request.request_id} is already running"))
        if violations:
            raise invalid(*violations)
        if len(prompt) + request.max_tokens > self.max_context:
            raise ContextOverflow(
                f"{len(prompt)} prompt tokens and max_tokens {request.max_tokens} exceed the context of "
                f"{self.max_context}; shorten the prompt or lower max_tokens",
                metadata={
                    "prompt_tokens": str(len(prompt)),
                    "max_tokens": str(request.max_tokens),
                    "context": str(self.max_context),
                },
            )

    def _forget(self, key: int) -> None:
        stream = self._streams.pop(key, None)
        if not self._streams:
            self._worker.idle.set()
        if stream is not None:
            stream.over(None if stream.ended is None else stream.ended.finished)

    def _settle(self, ticket: int, error: NarthexError | None) -> None:
        change = self._changes.pop(ticket)
        if error is not None:
            change.set_exception(error)
        else:
            change.set_result(None)

    def _deliver(self, batch: Batch) -> None:
        for key, scores in batch.prompts:
            if stream := self._streams.get(key):
                stream.prompt += scores
                stream.ready.set()
        for key, position in batch.logprobs:
            if stream := self._streams.get(key):
                stream.logprobs.append(position)
        for key, token in batch.tokens:
            if stream := self._streams.get(key):
                stream.tokens.append(token)
                stream.ready.set()
        for ended in batch.ended:
            if stream := self._streams.get(ended.key):
                stream.ended = ended
                stream.ready.set()
                self._forget(ended.key)
        for settled in batch.settled:
            self._settle(settled.ticket, settled.error)
        if batch.stats is not None:
            self._stats = batch.stats
        if batch.last:
            self._worker.ended()
            for key, stream in [*self._streams.items()]:  # too late for the thread
                stream.ended = Ended(key, None, error=self._worker.refusal())
                stream.ready.set()
                self._forget(key)
            for ticket in [*self._changes]:
                self._settle(ticket, self._worker.refusal())
        if self._observer is not None:
            try:
                if batch.step is not None:
                    self._observer.on_step(batch.step)
                for ended in batch.ended:
                    if ended.report is not None:
                        self._observer.on_finished(ended.report)
            except Exception:
                log.exception("the engine's observer failed")

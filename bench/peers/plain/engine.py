"""Continuous batching between request threads: the loop, and how a request thread uses it."""

import itertools
import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from typing import cast

from narthex_server.engine.decoder import DecoderSession, Logits
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.pace import Pace
from narthex_server.engine.request import EngineEvent, EngineRequest, Finished, FinishReason, Tokens
from narthex_server.engine.runner import Runner
from narthex_server.engine.scheduler import Scheduler
from narthex_server.engine.sequence import Sequence
from narthex_server.engine.slots import Slots
from narthex_server.engine.speculation import Draft, Speculation
from narthex_server.errors import InternalError, NarthexError
from narthex_server.sync.locks import Locks

from bench.peers.plain.adapter_manager import AdapterManager
from bench.peers.plain.kv_cache import KvCache
from bench.peers.plain.request_queue import RequestQueue
from bench.peers.plain.sampling import SamplingStates

log = logging.getLogger(__name__)

Said = int | Finished | NarthexError


@dataclass(frozen=True, slots=True)
class Stream:
    """What the loop says to one request thread."""

    request_id: str
    said: "queue.SimpleQueue[Said]" = field(default_factory=queue.SimpleQueue)


class PlainEngine:
    """The same scheduling and the same computing as narthex's engine, over structures that threads share by locks.

    `generate` is asynchronous in form alone, for the text pipeline, and blocks.
    """

    def __init__(self, session: DecoderSession, options: EngineOptions, locks: Locks) -> None:
        self._session = session
        pace = Pace()
        self._cache = KvCache(session, options.kv_tokens, locks)
        slots = cast(Slots, self._cache)
        self._speculation = Speculation(slots, pace, options.speculate)
        self._scheduler = Scheduler(slots, pace, self._speculation, options)
        self._runner = Runner(session, slots, pace)
        self._queue = RequestQueue(locks)
        self._sampling = SamplingStates(locks)
        self.adapters = AdapterManager(session.adapters, locks)
        self._streams: dict[int, Stream] = {}
        self._keys = itertools.count()
        self._thread = threading.Thread(target=self._run, name="batching", daemon=True)
        self._stopping = False
        self.slots, self.vocab_size = session.slots, session.vocab_size
        self.max_context = self._cache.context

    def start(self) -> None:
        self._thread.start()

    def abort(self, request_id: str, index: int | None = None) -> bool:
        """Ends the request of an id, as a stop string does; False if there is none."""
        found = [key for key, stream in [*self._streams.items()] if stream.request_id == request_id]
        for key in found:
            self._queue.cancel(key)
        return bool(found)

    def stop(self) -> None:
        self._stopping = True
        self._queue.wake()
        self._thread.join()
        self._session.close()

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineEvent]:
        """Yields Tokens, then one Finished; closing it frees the slot. Errors: ContextOverflow, NotFound."""
        self._cache.check(len(request.prompt) + request.max_tokens)
        with self.adapters.use(request.adapters) as mixture:
            kind = self._session.prefix_class(len(request.prompt))
            sequence = Sequence(next(self._keys), request, time.monotonic(), kind, mixture)
            stream = self._streams[sequence.key] = Stream(request.request_id)
            self._sampling.begin(sequence)
            self._queue.put(sequence)
            ended = False
            try:
                while not ended:
                    tokens, last = _heard(stream)
                    if tokens:
                        yield Tokens(tokens)
                    if last is not None:
                        ended = True
                        if isinstance(last, NarthexError):
                            raise last
                        yield last
            finally:
                self._sampling.end(sequence.key)
                self._streams.pop(sequence.key, None)
                if not ended:
                    self._queue.cancel(sequence.key)

    def _run(self) -> None:
        while not self._stopping:
            arrived, cancelled = self._queue.take(wait=not (self._scheduler.running or self._scheduler.waiting))
            for sequence in arrived:
                self._scheduler.waiting.join(sequence)
            for key in cancelled:
                if sequence := self._scheduler.find(key):
                    self._end(sequence, FinishReason.CANCELLED)
            try:
                self._step()
            except Exception:
                log.exception("a step failed")
                for sequence in [*self._scheduler.running]:
                    self._end(sequence, InternalError("the engine failed", metadata={}))

    def _step(self) -> None:
        now = time.monotonic()
        while self._scheduler.admit(now):
            pass
        for sequence in [sequence for sequence in self._scheduler.running if sequence.leader]:
            if self._cache.follow(sequence):
                break
        plan = self._scheduler.schedule()
        if plan.rows:
            self._draw(plan.rows, self._runner.decode(plan.rows))
        for draft in plan.drafts:
            self._verify(draft)
        for chunk in plan.chunks:
            self._draw([chunk.sequence], [self._runner.prefill(chunk)])

    def _draw(self, sequences: list[Sequence], rows: Iterable[Logits | None]) -> None:
        now = time.monotonic()
        for sequence, logits in zip(sequences, rows, strict=True):
            if logits is not None:
                self._accept(sequence, self._sampling.draw(sequence, logits), now)

    def _verify(self, draft: Draft) -> None:
        sequence, before, now = draft.sequence, draft.sequence.accepted, time.monotonic()
        rows = self._runner.verify(draft)
        sequence.drafted += len(draft.tokens)
        for guess, logits in zip([*draft.tokens, None], rows, strict=True):
            self._cache.advance(sequence, 1)
            token = self._sampling.draw(sequence, logits)
            sequence.accepted += token == guess
            if not self._accept(sequence, token, now) or token != guess:
                break
        self._speculation.tried(draft, sequence.accepted - before)

    def _accept(self, sequence: Sequence, token: int | None, now: float) -> bool:
        """Whether the sequence goes on after this token."""
        if token is None:
            self._end(sequence, FinishReason.CANCELLED)
        elif token in sequence.request.stop_ids:
            self._end(sequence, FinishReason.STOP, token)
        else:
            sequence.append(token, now)
            if stream := self._streams.get(sequence.key):
                stream.said.put(token)
            if sequence.generated < sequence.request.max_tokens:
                return True
            self._end(sequence, FinishReason.LENGTH)
        return False

    def _end(self, sequence: Sequence, outcome: FinishReason | NarthexError, stop_id: int | None = None) -> None:
        failed = isinstance(outcome, NarthexError)
        self._scheduler.remove(sequence, keep=not failed)
        if stream := self._streams.get(sequence.key):
            stream.said.put(
                outcome if isinstance(outcome, NarthexError) else Finished(outcome, sequence.usage, stop_id)
            )


def _heard(stream: Stream) -> tuple[tuple[int, ...], Finished | NarthexError | None]:
    """Waits for the next thing said; all tokens that are there, and the end if it is there."""
    tokens: list[int] = []
    said: Said = stream.said.get()
    while isinstance(said, int):
        tokens.append(said)
        try:
            said = stream.said.get_nowait()
        except queue.Empty:
            return tuple(tokens), None
    return tuple(tokens), said

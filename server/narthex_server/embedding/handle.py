"""The event loop's side of an embedder."""

import asyncio
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from narthex_server.embedding.batcher import Job
from narthex_server.embedding.head import Head, Pooling
from narthex_server.embedding.loop import Abort, BatchReport, EmbedderLoop, Message, Progress, Stop, Submit
from narthex_server.embedding.session import EncoderSession
from narthex_server.errors import NarthexError, ResourceExhausted
from narthex_server.worker import Worker

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]


class EmbedderObserver(Protocol):
    """Called on the event loop; must be quick and must not raise."""

    def on_batch(self, report: BatchReport) -> None: ...

    def on_finished(self, outcome: str, seconds: float) -> None:
        """A request ended so long after it came; `outcome` is ok, cancelled or error."""
        ...


class Unobserved:
    """The EmbedderObserver of whom nobody watches."""

    def on_batch(self, report: BatchReport) -> None:
        pass

    def on_finished(self, outcome: str, seconds: float) -> None:
        pass


class EmbedderHandle:
    """Embeds with one encoder, which it owns from here on; use from the event loop that called `start`.

    Requests take turns batch by batch, and share batches; more than `max_waiting` at a time are refused.
    """

    def __init__(
        self, session: EncoderSession, head: Head, max_waiting: int = 64, observer: EmbedderObserver | None = None
    ) -> None:
        self._session = session
        self._head = head
        self._max_waiting = max_waiting
        self._observer = observer or Unobserved()
        self._worker: Worker[Message] = Worker("embedder")
        self._inbox = self._worker.inbox
        self._calls: dict[int, asyncio.Future[None]] = {}
        self._keys = itertools.count()

    @property
    def max_len(self) -> int:
        """Tokens that a text may have."""
        return self._session.max_len

    @property
    def dimensions(self) -> int:
        """Numbers of a vector."""
        return self._head.size(self._session.hidden_size)

    def requests(self) -> int:
        """How many requests wait for vectors now."""
        return len(self._calls)

    def start(self) -> None:
        """Start the thread; call once, in the event loop."""
        event_loop = asyncio.get_running_loop()

        def send(progress: Progress) -> None:
            event_loop.call_soon_threadsafe(self._deliver, progress)

        self._worker.start(EmbedderLoop(self._session, self._head, self._inbox, send).run)

    async def embed(self, texts: Sequence[NDArray[np.int64]], pooling: Pooling | None = None) -> Floats:
        """The vectors [N, dimensions], not scaled, of texts of 1 to `max_len` token ids each.

        Cancelling it ends the work before its next batch. `pooling` defaults to the model's own. Errors:
        ResourceExhausted, Unavailable, InternalError.
        """
        self._admit()
        key, began, outcome = next(self._keys), time.monotonic(), "error"
        vectors = np.empty((len(texts), self.dimensions), np.float32)
        call = self._calls[key] = asyncio.get_running_loop().create_future()
        self._worker.idle.clear()
        self._inbox.put(Submit(Job(key, texts, pooling or self._head.pooling, vectors)))
        try:
            await call
            outcome = "ok"
            return vectors
        except asyncio.CancelledError:
            self._inbox.put(Abort(key))
            outcome = "cancelled"
            raise
        finally:
            del self._calls[key]
            if not self._calls:
                self._worker.idle.set()
            with _unharmed():
                self._observer.on_finished(outcome, time.monotonic() - began)

    async def stop(self, grace: float) -> None:
        """Refuse new requests, give running ones `grace` seconds, cancel the rest, then close the session."""
        if await self._worker.stop(grace, Stop(), running=self.requests):
            await asyncio.to_thread(self._session.close)

    def _admit(self) -> None:
        self._worker.check()
        if len(self._calls) >= self._max_waiting:
            raise ResourceExhausted(
                f"{len(self._calls)} requests are waiting for vectors, the limit; retry in a moment",
                reason="QUEUE_FULL",
                metadata={"max_waiting": str(self._max_waiting), "retry_after_seconds": "1"},
            )

    def _deliver(self, progress: Progress) -> None:
        for job in progress.whole:
            self._settle(job.key, None)
        for job in progress.failed:
            self._settle(job.key, progress.error)
        if progress.last:
            self._worker.ended()
            for key in [*self._calls]:
                self._settle(key, self._worker.refusal())
        if progress.report is not None:
            with _unharmed():
                self._observer.on_batch(progress.report)

    def _settle(self, key: int, error: NarthexError | None) -> None:
        call = self._calls.get(key)
        if call is None or call.done():
            return
        if error is None:
            call.set_result(None)
        else:
            call.set_exception(error)


@contextmanager
def _unharmed() -> Iterator[None]:
    """Go on after an observer's failure, which no request must feel."""
    try:
        yield
    except Exception:
        log.exception("the embedder's observer failed")

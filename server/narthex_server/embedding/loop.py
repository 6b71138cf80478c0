"""The thread that owns an encoder: takes requests, encodes batch after batch."""

import logging
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narthex_server.embedding.batcher import Batcher, Job
from narthex_server.embedding.head import Head, pool
from narthex_server.embedding.session import EncoderSession
from narthex_server.errors import NarthexError
from narthex_server.worker import failure

log = logging.getLogger(__name__)

BATCH_TOKENS = 512
"""Tokens that are encoded together at most, padding included: it bounds the memory, and how long others wait."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """One batch: its texts, their tokens, the padding computed beside them, and the seconds that it took."""

    texts: int
    tokens: int
    padding: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Submit:
    job: Job


@dataclass(frozen=True, slots=True)
class Abort:
    key: int


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Message = Submit | Abort | Stop


@dataclass(frozen=True, slots=True)
class Progress:
    """What a batch brought: the requests that are whole now, or those that failed with it."""

    report: BatchReport | None = None
    whole: tuple[Job, ...] = ()
    failed: tuple[Job, ...] = ()
    error: NarthexError | None = None
    last: bool = False


class EmbedderLoop:
    """Takes messages from `inbox`, hands progress to `send`; `run` is the thread's body."""

    def __init__(
        self, session: EncoderSession, head: Head, inbox: "queue.SimpleQueue[Message]", send: Callable[[Progress], None]
    ) -> None:
        self._session = session
        self._head = head
        self._inbox = inbox
        self._send = send
        self._batcher = Batcher(BATCH_TOKENS, session.alone)
        self._stopping = False

    def run(self) -> None:
        try:
            while not self._stopping:
                self._receive()
                if self._batcher and not self._stopping:
                    self._deliver(self._encode(self._batcher.next()))
        except BaseException:  # the thread's outermost frame: nobody else would say why it ended
            log.exception("the embedder's thread died")
        finally:
            self._deliver(Progress(last=True))

    def _receive(self) -> None:
        """Handle all messages; wait for one if there is nothing to encode."""
        try:
            self._handle(self._inbox.get(block=not self._batcher))
            while True:
                self._handle(self._inbox.get_nowait())
        except queue.Empty:
            return

    def _handle(self, message: Message) -> None:
        match message:
            case Submit(job):
                self._batcher.add(job)
            case Abort(key):
                self._batcher.remove(key)
            case Stop():
                self._stopping = True

    def _encode(self, batch: Sequence[tuple[Job, int]]) -> Progress:
        """Encode, pool, and put each vector in its place; a failure ends the requests involved and nothing else."""
        jobs = tuple({job.key: job for job, _ in batch}.values())
        began = time.monotonic()
        try:
            tokens, lengths = _padded([job.texts[index] for job, index in batch])
            hidden = self._session.encode(tokens, lengths)
            for row, (job, index) in enumerate(batch):
                job.vectors[index] = self._head.finish(pool(hidden[row, : lengths[row]], job.pooling))
                job.left -= 1
        except Exception as error:
            for job in jobs:
                self._batcher.remove(job.key)
            return Progress(failed=jobs, error=failure("embedder", "a batch of texts failed", error))
        total = int(lengths.sum())
        report = BatchReport(len(batch), total, tokens.size - total, time.monotonic() - began)
        return Progress(report, tuple(job for job in jobs if not job.left))

    def _deliver(self, progress: Progress) -> None:
        try:
            self._send(progress)
        except RuntimeError:  # the event loop is closed: nobody is left to embed for
            log.warning("the event loop has closed under the embedder")
            self._stopping = True


def _padded(texts: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Texts side by side [B, S], and their lengths [B]."""
    lengths = np.array([len(text) for text in texts], np.int32)
    tokens = np.zeros((len(texts), int(lengths.max())), np.int64)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    return tokens, lengths

"""The thread that writes the record, so that no call waits for the disk."""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass

from narthex_server.audit.encoding import Encoding
from narthex_server.audit.file import FileFailed
from narthex_server.audit.log import AuditLog
from narthex_server.tools.acts import Act
from narthex_server.tools.report import CallReport

BATCH = 1000
"""Records of one transaction."""

RETRY_S = 1.0
STOP_S = 5.0
"""Seconds that a failing disk still gets when the process ends."""

MAX_PENDING_BYTES = 64 * 1024 * 1024
"""Of names and arguments that wait to be written."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """What a record is made of in the thread: `at` is when it was over, in seconds since 1970."""

    at: float
    trace_id: str
    told: CallReport | Act


class AuditWriter:
    """A bounded queue and the thread that empties it; `put` is for one other thread."""

    def __init__(self, journal: AuditLog, encoding: Encoding, *, capacity: int, interval: float) -> None:
        """`interval`: seconds that records wait for others to be written with."""
        self._log = journal
        self._encoding = encoding
        self._capacity = capacity
        self._interval = interval
        self._queue: deque[Entry] = deque()
        self._batch: list[bytes] = []  # of the thread
        self._queued_bytes = self._taken_bytes = 0  # each counted by one thread
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._stopped_at = 0.0
        self._thread = threading.Thread(target=self._run, name="narthex-audit", daemon=True)
        self._dropped = self._reported = 0
        self.written = 0
        self.failing = False

    @property
    def pending(self) -> int:
        return len(self._queue) + len(self._batch)

    @property
    def lost(self) -> int:
        """Entries that were dropped since the start."""
        return self._dropped

    @property
    def full(self) -> bool:
        waiting = self._queued_bytes - self._taken_bytes
        return self.pending >= self._capacity or waiting >= MAX_PENDING_BYTES

    def start(self) -> None:
        """Opens the record and starts the thread. Raises FileFailed."""
        self._log.open()
        self._thread.start()

    def put(self, entry: Entry, *, needed: bool) -> None:
        """Queues an entry; one that is not `needed` is dropped, and counted, where the queue is full."""
        if not needed and self.full:
            self._dropped += 1
            return
        self._queued_bytes += _bytes(entry)
        self._queue.append(entry)
        if not self._wake.is_set():
            self._wake.set()

    def stop(self) -> None:
        """Returns when all is written, or after a few seconds of a failing disk; blocks."""
        self._stopped_at = time.monotonic()
        self._stop.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                self._wake.wait()
                self._stop.wait(self._interval)  # so that others come along
                self._wake.clear()
                while self._queue:
                    self._encode()
                    if not self._write():
                        return
                if self._dropped > self._reported:
                    self._write()
                if self._stop.is_set() and not self._queue:
                    return
        except Exception:  # else nobody would hear of it
            self.failing = True
            log.exception("the audit record has ended")
        finally:
            self._log.close()

    def _encode(self) -> None:
        while self._queue and len(self._batch) < BATCH:
            entry = self._queue.popleft()
            self._batch.append(self._encoded(entry))
            self._taken_bytes += _bytes(entry)
            time.sleep(0)  # the event loop would wait for a whole batch otherwise

    def _encoded(self, entry: Entry) -> bytes:
        try:
            match entry.told:
                case CallReport() as report:
                    return self._encoding.call(entry.at, entry.trace_id, report)
                case Act() as act:
                    return self._encoding.act(entry.at, entry.trace_id, act)
        except Exception as error:
            log.exception("a record of the audit could not be made")
            return self._encoding.failed(entry.at, entry.told, error)

    def _write(self) -> bool:
        """Writes the batch; tries until it works. False where the process ended before it did."""
        while True:
            dropped, batch = self._dropped, self._batch
            if dropped > self._reported:
                batch = [*batch, self._encoding.gap(time.time(), dropped - self._reported)]
            try:
                self._log.append(batch)
            except FileFailed as error:
                if not self.failing:
                    log.error("the audit record cannot be written: %s", error)
                self.failing = True
                if self._stop.is_set() and time.monotonic() - self._stopped_at > STOP_S:
                    log.error("%d records of the audit are lost: the disk still fails", self.pending)
                    return False
                self._stop.wait(RETRY_S) if not self._stop.is_set() else time.sleep(RETRY_S / 10)
                continue
            if self.failing:
                log.warning("the audit record can be written again")
            self.failing = False
            self._reported = dropped
            self.written += len(batch)
            self._batch = []
            return True


def _bytes(entry: Entry) -> int:
    match entry.told:
        case CallReport() as report:
            return len(report.asked) + report.received
        case Act() as act:
            return len(act.subject)

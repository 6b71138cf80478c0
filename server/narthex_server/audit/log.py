"""The record as a folder of files, one chain over all of them; used by one thread."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from narthex_server.audit.chain import START, Chain, Head
from narthex_server.audit.encoding import stamp
from narthex_server.audit.file import AuditFile, FileFailed, Lock, Part, Stored, files

_DAY = 86_400.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """When another file is begun, by bytes and by days, and after how many days a file is deleted; 0 is never."""

    file_bytes: int
    file_days: float = 0.0
    keep_days: float = 0.0


class AuditLog:
    """Appends records; owns its folder from `open` to `close`. All raise FileFailed."""

    def __init__(self, folder: Path, chain: Chain, bounds: Bounds, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._chain = chain
        self._bounds = bounds
        self._clock = clock
        self._gone = 0  # the first record of a file that should be there

    def open(self) -> None:
        """Goes on where the last file ends, or begins the first one."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise FileFailed(f"{self._folder} cannot be made: {error.strerror}") from error
        self._lock = Lock(self._folder)
        try:
            self._file, self._part = self._last()
        except FileFailed:
            self._lock.release()
            raise
        if self._gone:
            log.error("the audit file that begins with record %d is gone; what was in it is lost", self._gone)
            self.append([orjson.dumps({"kind": "gone", "at": stamp(self._clock()), "from": self._gone})])

    @property
    def head(self) -> Head:
        return self._part.head

    def append(self, bodies: Sequence[bytes]) -> None:
        """Adds records in one transaction; after a failure none of them is there."""
        if self._is_full():
            self._turn()
        head, stored = self._part.head, []
        for body in bodies:
            head = self._chain.next(head, body)
            stored.append(Stored(head.seq, body, head.hash))
        part = replace(self._part, head=head, seal=self._chain.seal(head, False))
        self._file.append(stored, part)
        self._part = part

    def close(self) -> None:
        self._file.close()
        self._lock.release()

    def _last(self) -> tuple[AuditFile, Part]:
        known = files(self._folder)
        if known and AuditFile.unfinished(known[-1]):  # the process died while it was made
            known.pop().unlink()
        if not known:
            return self._create(Head(0, START))
        file = AuditFile.open(known[-1], writable=True)
        part = file.part()
        if part.closed:
            file.close()
            created = self._create(part.head)
            self._gone = part.head.seq + 1
            return created
        if part.key_id == self._chain.key_id:
            return file, part
        file.close()
        if part.head.seq == part.before.seq:
            raise FileFailed(f"{file.path} has another key and no records; move it away")
        log.info("the audit record goes on in a new file: its key is another")
        return self._create(part.head)

    def _create(self, head: Head) -> tuple[AuditFile, Part]:
        seal = self._chain.seal(head, False)
        part = Part(self._chain.key_id, self._clock(), head, head, False, seal)
        return AuditFile.create(self._folder, part), part

    def _is_full(self) -> bool:
        if self._part.head.seq == self._part.before.seq:
            return False
        age = self._clock() - self._part.created
        return self._file.size() >= self._bounds.file_bytes or 0 < self._bounds.file_days * _DAY <= age

    def _turn(self) -> None:
        """Begins another file, which the one before says; deletes those that have been kept long enough."""
        file, part = self._create(self._part.head)
        try:
            self._file.append((), replace(self._part, closed=True, seal=self._chain.seal(self._part.head, True)))
        except FileFailed:
            file.discard()  # else the next try would find it there
            raise
        self._file.close()
        self._file, self._part = file, part
        if self._bounds.keep_days:
            self._forget()

    def _forget(self) -> None:
        """The record says what was deleted before it is: else it would look like a loss."""
        old = [path for path in files(self._folder)[:-1] if self._is_old(path)]
        if not old:
            return
        last = AuditFile.open(old[-1])
        until = last.part().head.seq
        last.close()
        self.append([orjson.dumps({"kind": "retention", "at": stamp(self._clock()), "until": until})])
        try:
            for path in old:
                for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                    (self._folder / name).unlink(missing_ok=True)
                log.info("audit file %s was kept for %g days and is deleted", path.name, self._bounds.keep_days)
        except OSError as error:
            log.warning("audit files up to record %d cannot be deleted: %s", until, error.strerror)

    def _is_old(self, path: Path) -> bool:
        try:
            return self._clock() - path.stat().st_mtime > self._bounds.keep_days * _DAY
        except OSError:
            return False  # somebody else has taken it away, which `narthex audit verify` tells

"""Whether a record is what was written: nothing changed, removed, added, moved, or cut off at its end."""

import hmac
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import orjson

from narthex_server.audit.chain import Chain, Head
from narthex_server.audit.file import AuditFile, FileFailed, Part, begun


@dataclass(frozen=True, slots=True)
class Fault:
    """The first thing that is wrong: at which record, and what."""

    seq: int
    text: str

    def __str__(self) -> str:
        return f"record {self.seq}: {self.text}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found: the first and the last record, and the fault, if there is one."""

    first: int
    head: Head
    fault: Fault | None = None


class Verification:
    """Follows the chain through all files; `chains` by the ids of their keys, "" for the one without."""

    def __init__(self, chains: Mapping[str, Chain], anchors: Sequence[Head] = ()) -> None:
        self._chains = chains
        self._anchors = {anchor.seq: anchor for anchor in anchors}
        self._until = 0  # what retention has deleted, as far as the record says

    def run(self, folder: Path) -> Verdict:
        """Looks at a folder, or at one file of it. Raises FileFailed where there is none."""
        paths = deque(begun(folder) if folder.is_dir() else [folder])
        if not paths or not paths[0].exists():
            raise FileFailed(f"{folder} holds no audit files")
        head: Head | None = None
        first = 1
        part: Part | None = None
        while paths:
            path = paths.popleft()
            try:
                with closing(AuditFile.open(path)) as file:
                    part = file.part()
                    if head is None:
                        head, first = part.before, part.before.seq + 1
                    elif (fault := _joins(head, part)) is not None:
                        return Verdict(first, head, fault)
                    head, fault = self._follow(file, part, head)
            except FileFailed as error:
                head = head or Head()
                return Verdict(first, head, Fault(head.seq + 1, str(error)))
            if fault is not None:
                return Verdict(first, head, fault)
            if not paths and part.closed and folder.is_dir():  # another may have been begun meanwhile
                paths.extend(later for later in begun(folder) if later.name > path.name)
        assert head is not None and part is not None
        return Verdict(first, head, self._ends(folder, first, head, part))

    def _follow(self, file: AuditFile, part: Part, head: Head) -> tuple[Head, Fault | None]:
        chain = self._chains.get(part.key_id)
        if chain is None:
            return head, Fault(
                head.seq + 1, f"{file.path.name} is of the key {part.key_id or '(none)'}, which is not given"
            )
        try:
            for stored in file.records():
                expected = chain.next(head, stored.body)
                if stored.seq != expected.seq:
                    return head, Fault(expected.seq, f"missing: the next one there is {stored.seq}")
                if not hmac.compare_digest(stored.hash, expected.hash):
                    return head, Fault(
                        stored.seq, "changed, moved, or put in: its hash does not follow from the one before"
                    )
                head = expected
                anchor = self._anchors.get(head.seq)
                if anchor is not None and anchor.hash != head.hash:
                    return head, Fault(head.seq, "not the one that the anchor was made of: the record was written anew")
                if b'"retention"' in stored.body:
                    self._note(stored.body)
        except FileFailed as error:
            return head, Fault(head.seq + 1, str(error))
        if part.head != head:
            return head, Fault(head.seq + 1, f"missing: the file was cut off, it went on to record {part.head.seq}")
        if not hmac.compare_digest(part.seal, chain.seal(head, part.closed)):
            return head, Fault(head.seq, "the seal of the file's end is not ours: its end was changed")
        return head, None

    def _note(self, body: bytes) -> None:
        try:
            record = orjson.loads(body)
        except ValueError:
            return  # without a key anybody can chain anything
        match record:
            case {"kind": "retention", "until": int(until)}:
                self._until = max(self._until, until)

    def _ends(self, path: Path, first: int, head: Head, part: Part) -> Fault | None:
        if path.is_dir():
            if part.closed:
                return Fault(head.seq + 1, "missing: the last file says that another goes on")
            if first > 1 and self._until < first - 1:
                return Fault(self._until + 1, f"missing: the files before record {first} are gone")
        last = max(self._anchors, default=0)
        if last > head.seq and (path.is_dir() or not part.closed):
            return Fault(head.seq + 1, f"missing: the record was cut off, an anchor was made of record {last}")
        return None


def _joins(head: Head, part: Part) -> Fault | None:
    if part.before.seq != head.seq:
        return Fault(head.seq + 1, f"missing: the next file begins with record {part.before.seq + 1}")
    if part.before.hash != head.hash:
        return Fault(head.seq + 1, "the file does not go on where the one before ends")
    return None

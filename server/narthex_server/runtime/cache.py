"""Built graphs on disk, found again by the content of what they were built from."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from narthex_server.progress import Progress, Stage, unheard

GRAPH = "model.onnx"
WEIGHTS = "weights.bin"
_CHUNK = 1 << 22
_UNUSED_SECONDS = 30 * 86400


class GraphCache:
    """Entries are folders with a graph and its weights; a reader sees a whole entry or none."""

    def __init__(self, root: Path) -> None:
        self._graphs = root / "graphs"
        self._digests = root / "digests"

    def find_or_build(self, key: str, build: Callable[[Path], None]) -> Path:
        """Return the graph of this key; `build` writes one into a folder that becomes the entry when it is whole."""
        entry = self._graphs / key
        if not (entry / GRAPH).is_file():
            self._graphs.mkdir(parents=True, exist_ok=True)
            self._forget_unused()
            draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=self._graphs))
            try:
                build(draft)
                try:
                    draft.rename(entry)
                except OSError:
                    if not (entry / GRAPH).is_file():  # another process may have been first, which is as good
                        raise
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        os.utime(entry)
        return entry / GRAPH

    def _forget_unused(self) -> None:
        """Remove what nothing has asked for in a month: other options and older builders leave entries behind."""
        oldest = time.time() - _UNUSED_SECONDS
        for entry in self._graphs.iterdir():
            if entry.stat().st_mtime < oldest:
                shutil.rmtree(entry, ignore_errors=True)

    def content_digest(self, files: Iterable[Path], progress: Progress = unheard) -> str:
        """Digest the files' content; one that has the path, inode, size and time of a known one is not read again."""
        whole = hashlib.blake2b(digest_size=16)
        sizes = {file: file.stat().st_size for file in files}
        total, before = max(sum(sizes.values()), 1), 0
        for file, size in sizes.items():
            whole.update(self._file_digest(file, partial(_read, progress, before, total)).encode())
            before += size
        return whole.hexdigest()

    def _file_digest(self, file: Path, heard: Callable[[int], None]) -> str:
        stat = file.stat()
        identity = f"{file.resolve()}\0{stat.st_ino}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
        memo = self._digests / hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()
        if memo.is_file():
            return memo.read_text()
        digest = hashlib.blake2b(digest_size=16)
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                heard(stream.tell())
        self._digests.mkdir(parents=True, exist_ok=True)
        draft = memo.with_name(f".{memo.name}.{os.getpid()}")
        draft.write_text(digest.hexdigest())
        draft.replace(memo)
        return digest.hexdigest()


def _read(progress: Progress, before: int, total: int, here: int) -> None:
    progress(Stage.READ, (before + here) / total)


def entry_key(content: str, options: Mapping[str, object], code: Iterable[Path]) -> str:
    """Name an entry by content, options and the code that builds it: a changed builder never meets an old graph.

    `code` are packages, and modules by themselves.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{content}\0{json.dumps(options, sort_keys=True)}\0".encode())
    for path in code:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()

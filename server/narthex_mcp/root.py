"""A folder that is never left, whatever paths say and whatever is exchanged meanwhile."""

import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from narthex_mcp.toolbox import Refused, is_text

MAX_FILE = 1024 * 1024
MAX_VISITED = 100_000
LONGEST_PATH = 4096

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)  # a pipe without a writer would never open


class Root:
    """The files under one folder, by paths relative to it.

    A path leads to where its links do, if that is inside. Once known, a place is opened folder by folder and no link is
    followed, so that it cannot be exchanged for one that leads outside.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve(strict=True)

    def inside(self, path: str) -> Path:
        """Where an existing file or folder really is; raises Refused."""
        try:
            # resolved first, then compared: links are followed before the question where they lead
            whole = (self.folder / _relative(path)).resolve(strict=True)
        except FileNotFoundError:
            raise Refused(f"{path} not found") from None
        except (OSError, ValueError, RuntimeError):
            raise Refused(f"{path[:200]!r} is not a path that can be read") from None
        if not whole.is_relative_to(self.folder):
            raise Refused(f"{path} is outside the workspace")
        if not is_text(self.name(whole)):
            raise Refused(f"{path} leads to a name that is no text")
        return whole

    def place(self, path: str) -> Path:
        """Where something can be written or removed: in an existing folder, under a name that is not hidden."""
        head, name = os.path.split(_relative(path).rstrip("/"))
        if name in ("", ".", "..") or "\0" in name or len(os.fsencode(name)) > 255:
            raise Refused(f"{path[:200]!r} is not the path of a file")
        place = self.inside(head or ".") / name
        if any(part.startswith(".") for part in place.relative_to(self.folder).parts):
            raise Refused(f"{path} is hidden; hidden files are not changed")
        return place

    def name(self, place: Path) -> str:
        """The path of a place relative to the folder, with `/` between its parts."""
        return place.relative_to(self.folder).as_posix()

    @contextmanager
    def opened(self, place: Path) -> Iterator[BinaryIO]:
        """A regular file to read; raises Refused for anything else."""
        with self.parent(place) as parent:
            descriptor = os.open(place.name, os.O_RDONLY | _NOFOLLOW | _NONBLOCK, dir_fd=parent)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Refused(f"{self.name(place)} is not a regular file")
            yield file

    @contextmanager
    def parent(self, place: Path) -> Iterator[int]:
        """A descriptor of the folder that holds a place, reached without following links."""
        descriptor = os.open(self.folder, os.O_RDONLY | _DIRECTORY)
        try:
            for part in place.relative_to(self.folder).parts[:-1]:
                below = os.open(part, os.O_RDONLY | _DIRECTORY | _NOFOLLOW, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    def read(self, path: str, most: int = MAX_FILE) -> bytes:
        """A file of at most so many bytes; raises Refused."""
        place = self.inside(path)
        if place.is_dir():
            raise Refused(f"{path} is a directory; use list_directory")
        if not place.is_file():  # opening a device may do something
            raise Refused(f"{path} is not a regular file")
        with self.opened(place) as file:
            data = file.read(most + 1)
            if len(data) > most:
                size = os.fstat(file.fileno()).st_size
                raise Refused(f"{path} is {size} bytes; at most {most} can be read at once")
        return data

    def write(self, place: Path, data: bytes, replaces: bool) -> None:
        """Puts a whole file in its place at once: readers see the old one or the new one, and nothing in between."""
        draft = f".narthex-{secrets.token_hex(8)}"
        with self.parent(place) as parent:
            mode = 0o644
            with suppress(FileNotFoundError):
                there = os.stat(place.name, dir_fd=parent, follow_symlinks=False)
                if not stat.S_ISREG(there.st_mode):
                    raise Refused(f"{self.name(place)} is there and not a regular file")
                if not replaces:
                    raise Refused(f"{self.name(place)} exists already")
                mode = stat.S_IMODE(there.st_mode)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW
            try:
                with open(os.open(draft, flags, 0o600, dir_fd=parent), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    os.fchmod(file.fileno(), mode & 0o777)
                if replaces:
                    os.replace(draft, place.name, src_dir_fd=parent, dst_dir_fd=parent)
                else:  # a link fails where something is, which a rename does not
                    os.link(draft, place.name, src_dir_fd=parent, dst_dir_fd=parent)
                    os.unlink(draft, dir_fd=parent)
            except FileExistsError:
                raise Refused(f"{self.name(place)} exists already") from None
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(draft, dir_fd=parent)

    def files(self, below: Path | None = None, seconds: float = 10.0) -> Iterator[Path]:
        """The files that are not hidden, folder by folder and sorted by name; links are followed to files inside only.

        It ends after 100,000 files or `seconds`.
        """
        visited, until = 0, time.monotonic() + seconds
        for folder, folders, files in os.walk(below or self.folder):  # does not follow links to folders
            folders[:] = sorted(d for d in folders if _visible(d))
            for name in sorted(files):
                visited += 1
                if visited > MAX_VISITED or time.monotonic() > until:
                    return
                place = Path(folder, name)
                if self.shown(place):
                    yield place

    def shown(self, entry: Path) -> bool:
        """Whether an entry is to be seen: not hidden, named in text, and not a link that leads outside or nowhere."""
        if not _visible(entry.name):
            return False
        if not entry.is_symlink():
            return True
        try:
            return entry.resolve(strict=True).is_relative_to(self.folder)
        except (OSError, RuntimeError):
            return False


def text_of(data: bytes, path: str) -> str:
    """The text in a file; raises Refused where it is none."""
    try:
        if b"\0" in data:
            raise ValueError
        return data.decode()
    except ValueError:
        raise Refused(f"{path} is not a text file") from None


def _visible(name: str) -> bool:
    return not name.startswith(".") and is_text(name)


def _relative(path: str) -> str:
    if len(path) > LONGEST_PATH:
        raise Refused(f"{path[:200]!r} is not a path that can be read")
    return path.lstrip("/\\")

"""`paths_under = ["/srv/data"]`: a path whose file is one of these folders or in one, links resolved.

What counts is the file system as this process sees it when it looks: what becomes of it until the server opens the
file, nobody can promise.
"""

import os
import re
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from narthex_server.tools.policy.predicate import Judge
from narthex_server.tools.policy.verdict import Verdict

SLOW = True  # a disk, or a network

MAX_CHARACTERS = 4096

_EXPANDED = "~$"  # at the beginning these stand for another folder

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_OWN = ("/proc", "/dev")
"""Where links mean something else to each process."""


@dataclass(frozen=True, slots=True)
class _Identity:
    """A file or folder, whatever it is called: spellings, mounts and the case of letters do not matter."""

    device: int
    inode: int


def judge(value: object) -> Judge:
    roots, relative_to = _settings(value)

    def judged(given: object, directory: str) -> Verdict:
        if not isinstance(given, str) or _is_ambiguous(given):
            return None
        path = Path(given)
        if not path.is_absolute():
            base = relative_to or directory
            if not base:
                return None
            path = Path(base) / path
        if not path.is_absolute() or str(path).startswith(_OWN):
            return None
        try:
            known = {_identity(os.stat(root)) for root in roots if os.path.isdir(root)}
            # The kernel follows a link before it takes the `..` behind it; who tidies the path up first does not.
            ways = {os.path.realpath(path), os.path.realpath(os.path.normpath(path))}
            inside = [_is_inside(way, known) for way in ways]
        except (OSError, ValueError):  # what we may not look at, or loops
            return None
        return inside[0] if len(set(inside)) == 1 else None

    return judged


def _settings(value: object) -> tuple[tuple[str, ...], str]:
    relative_to: object = ""
    if isinstance(value, dict):
        if unknown := set(value) - {"roots", "relative_to"}:
            raise ValueError(f"has no setting {min(unknown)!r}; there are: roots, relative_to")
        relative_to = value.get("relative_to", "")
        value = value.get("roots")
    roots = [value] if isinstance(value, str) else value
    if not isinstance(roots, list) or not roots or not all(isinstance(root, str) for root in roots):
        raise ValueError("must be a folder, a list of folders, or a table with roots and relative_to")
    if not isinstance(relative_to, str):
        raise ValueError("relative_to must be a folder")
    for folder in (*roots, *filter(None, [relative_to])):
        if not os.path.isabs(folder):
            raise ValueError(f"names {folder!r}, which is not absolute")
    return tuple(roots), relative_to


def _is_ambiguous(text: str) -> bool:
    """Whether servers would not agree on the file: they expand, trim, decode or normalise."""
    if not text or len(text) > MAX_CHARACTERS or unquote(text) != text or (os.sep == "/" and "\\" in text):
        return True
    plain = unicodedata.normalize("NFKC", text)
    return _is_expanded(text) or _is_expanded(plain) or _shape(plain) != _shape(text)


def _is_expanded(text: str) -> bool:
    if text != text.strip() or not text.isprintable():
        return True
    return text[0] in _EXPANDED or _SCHEME.match(text) is not None


def _shape(path: str) -> list[str]:
    """Of each part the dots it begins with: `..` leads upwards, and a dot hides it."""
    return [part[: len(part) - len(part.lstrip("."))] for part in re.split(r"[/\\]", path)]


def _is_inside(path: str, roots: set[_Identity]) -> bool:
    """Whether a path without links leads to a root or into one; raises OSError where that cannot be seen."""
    here = Path(path)
    for place in (here, *here.parents):
        try:
            found = os.lstat(place)
        except (FileNotFoundError, NotADirectoryError):
            continue  # it is yet to be made; its parent decides
        if stat.S_ISLNK(found.st_mode):
            raise OSError("a loop of links")
        if _identity(found) in roots:
            return True
    return False


def _identity(found: os.stat_result) -> _Identity:
    return _Identity(found.st_dev, found.st_ino)

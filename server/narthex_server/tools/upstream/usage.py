"""What the processes of an upstream use."""

import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

if sys.platform == "linux":
    from narthex_server.tools.upstream.transports.warden import descendants, proportional


@dataclass(frozen=True, slots=True)
class Usage:
    """Of those that run; bytes of memory, seconds of CPU time (also of their children that have ended)."""

    memory: int = 0
    cpu: float = 0.0
    open_files: int = 0
    processes: int = 0


def usage_of(wardens: Iterable[int]) -> Usage | None:
    """Of all processes below these, as far as they are still there; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    tree = [pid for warden in wardens for pid in descendants(warden)]
    return Usage(sum(map(proportional, tree)), sum(map(_cpu, tree)), sum(map(_open_files, tree)), len(tree))


def _cpu(pid: int) -> float:
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as stat:
        ticks = stat.read().rpartition(b")")[2].split()[11:15]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _open_files(pid: int) -> int:
    with suppress(OSError):
        return len(os.listdir(f"/proc/{pid}/fd"))
    return 0

"""How much of the machine other processes take while something is measured."""

import os
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
IDLE, IO_WAIT, GUEST = 3, 4, 8
"""Columns of /proc/stat that are no work, and where those begin that are counted already."""


class Neighbours:
    """Counts from when it is made; `pids` are the processes that are meant to work."""

    def __init__(self, *pids: int) -> None:
        self._pids = (*pids, os.getpid())
        self._start, self._work, self._own = time.perf_counter(), machine(), self._ours()

    def cores(self) -> float:
        """Cores that others kept busy, time stolen by the host included."""
        ours = self._ours() - self._own
        return max(machine() - self._work - ours, 0.0) / (time.perf_counter() - self._start)

    def _ours(self) -> float:
        return sum(process(pid) for pid in self._pids)


def machine() -> float:
    """Seconds of all cores that were not idle, since the machine started."""
    columns = Path("/proc/stat").read_text().splitlines()[0].split()[1 : GUEST + 1]
    return sum(int(text) for at, text in enumerate(columns) if at not in (IDLE, IO_WAIT)) / TICKS


def process(pid: int) -> float:
    """Seconds that a process has computed."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS

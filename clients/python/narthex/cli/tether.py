"""Becomes a program that gets SIGTERM when its parent dies: `tether.py PARENT PATH ARGV...`, on Linux.

Imports nothing of ours, so that it starts at once. What it asks the kernel for outlasts what it becomes.
"""

import ctypes
import os
import signal
import sys

SET_PARENT_DEATH_SIGNAL = 1  # linux/prctl.h


def main(parent: int, path: str, arguments: list[str]) -> None:
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    if os.getppid() == parent:  # else it died before the signal was asked for
        os.execv(path, arguments)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])

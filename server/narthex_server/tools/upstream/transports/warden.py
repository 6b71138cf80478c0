"""Runs an upstream, and ends all that it has started when it ends: `warden.py PARENT PATH ARGV...`, on Linux.

A process of its own between the server and the upstream, which imports nothing of ours. The parent-death signal reaches
a child and not its children, and a process group loses those who leave it; but whoever is orphaned below a "subreaper"
becomes its child, and so the warden finds them all. Its end is the upstream's: the same status, or the same signal.

SIGTERM is passed on to the upstream's group. SIGQUIT, which also comes when PARENT dies, ends everything at once.
"""

import ctypes
import os
import resource
import signal
import sys
import time

SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
HEARD = {signal.SIGCHLD, signal.SIGTERM, signal.SIGQUIT}


def main(parent: int, path: str, arguments: list[str]) -> None:
    prctl, warden = ctypes.CDLL(None).prctl, os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGQUIT)
    prctl(SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:  # it died before the signal was asked for
        return
    upstream = os.fork()
    if upstream == 0:
        prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() == warden:
            _become(path, arguments)
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # the pipes are the upstream's, and close with it
        os.dup2(nothing, number)
    _end_as(_watch(upstream))


def _become(path: str, arguments: list[str]) -> None:
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python
        signal.signal(ignored, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
    try:
        os.execv(path, arguments)
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}")


def _watch(upstream: int) -> int:
    """Returns the wait status of the upstream when it and all below it are gone."""
    while True:
        heard = signal.sigwaitinfo(HEARD)
        if heard.si_signo == signal.SIGQUIT:
            _sweep()
            return int(signal.SIGKILL)
        if heard.si_signo == signal.SIGTERM and heard.si_pid != os.getpid():
            os.killpg(0, signal.SIGTERM)
        while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            if found[0] == upstream:
                _sweep()
                return found[1]


def _sweep() -> None:
    """Kills children until none is left; theirs become ours as they die."""
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)  # what is killed takes a moment to go


def _children() -> list[int]:
    found, warden = [], str(os.getpid()).encode()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                if stat.read().rpartition(b")")[2].split()[1] == warden:
                    found.append(int(name))
        except OSError:  # it is gone meanwhile
            continue
    return found


def _end_as(status: int) -> None:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core is the upstream's, if any
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])

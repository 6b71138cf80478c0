"""Runs an upstream and ends all that it has started with it: `warden.py PARENT REPORT LIMITS PATH ARGV...`, on Linux.

A process of its own between the server and the upstream, which imports nothing of ours. The parent-death signal reaches
a child and not its children, and a process group loses those who leave it; but whoever is orphaned below a "subreaper"
becomes its child, and so the warden finds them all. Its end is the upstream's: the same status, or the same signal.

SIGTERM is passed on to the upstream's group. SIGQUIT, which also comes when PARENT dies, ends everything at once.

LIMITS are `memory=BYTES`, `processes=N` for all of them together, looked at every PAUSE seconds, and `cpu=SECONDS`,
`files=N`, `size=BYTES` for each, kept by the kernel; commas stand between. Which of them ended the upstream is written
to the descriptor REPORT.
"""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping

SET_PARENT_DEATH_SIGNAL, SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
HEARD = {signal.SIGCHLD, signal.SIGTERM, signal.SIGQUIT}
PAUSE = 0.05
"""A process fills some 100 MB in this time, or forks some hundred times."""
MB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")


def main(parent: int, report: int, limits: Mapping[str, int], path: str, arguments: list[str]) -> None:
    prctl, warden = ctypes.CDLL(None).prctl, os.getpid()
    os.set_inheritable(report, False)
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGQUIT)
    prctl(SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:  # it died before the signal was asked for
        return
    upstream = os.fork()
    if upstream == 0:
        os.setpgid(0, 0)  # all of a group can be killed in one moment, and we are not to be among them
        prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() == warden:
            _become(path, arguments, limits)
        return
    _try(os.setpgid, upstream, upstream)  # whoever of us two is first
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # the pipes are the upstream's, and close with it
        os.dup2(nothing, number)
    status, reason = _watch(upstream, limits)
    os.write(report, reason.encode())
    _end_as(status)


def descendants(pid: int) -> list[int]:
    """All below a process."""
    found, parents = list[int](), [pid]
    while parents:
        children = _children(parents.pop())
        found += children
        parents += children
    return found


def resident(pid: int) -> int:
    """Bytes in memory, those among them that it shares with others; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as statm:
            return int(statm.read().split()[1]) * PAGE
    except OSError:
        return 0


def proportional(pid: int) -> int:
    """As `resident`, but of what several have in common each has its part; dearer to find out."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
            return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith(b"Pss:"))
    except (OSError, StopIteration):
        return resident(pid)


def _become(path: str, arguments: list[str], limits: Mapping[str, int]) -> None:
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python
        signal.signal(ignored, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
    _limit(resource.RLIMIT_CPU, limits.get("cpu"), 1)  # a second for those that hear SIGXCPU, then comes SIGKILL
    _limit(resource.RLIMIT_NOFILE, limits.get("files"))
    _limit(resource.RLIMIT_FSIZE, limits.get("size"))
    try:
        os.execv(path, arguments)
    except OSError as error:
        sys.exit(f"{path}: {error.strerror}")


def _limit(kind: int, limit: int | None, more: int = 0) -> None:
    if limit is not None:
        highest = resource.getrlimit(kind)[1]
        soft, hard = (one if highest == resource.RLIM_INFINITY else min(one, highest) for one in (limit, limit + more))
        resource.setrlimit(kind, (soft, hard))


def _watch(upstream: int, limits: Mapping[str, int]) -> tuple[int, str]:
    """The wait status of the upstream when it and all below it are gone, and what limit ended it."""
    watched = "memory" in limits or "processes" in limits
    looked = 0.0
    while True:
        heard = signal.sigtimedwait(HEARD, PAUSE) if watched else signal.sigwaitinfo(HEARD)
        if heard is not None and heard.si_signo == signal.SIGQUIT:
            _sweep(upstream)
            return int(signal.SIGKILL), ""
        if heard is not None and heard.si_signo == signal.SIGTERM:
            _try(os.killpg, upstream, signal.SIGTERM)
        while (found := os.wait4(-1, os.WNOHANG))[0]:
            if found[0] == upstream:
                _sweep(upstream)
                return found[1], _exhausted(found[1], found[2], limits)
        if watched and time.monotonic() - looked > PAUSE / 2:  # also where a storm of SIGCHLD lets no time pass
            looked = time.monotonic()
            if reason := _exceeded(limits):
                _sweep(upstream)
                return int(signal.SIGKILL), reason


def _exceeded(limits: Mapping[str, int]) -> str:
    """What limit they go beyond all together."""
    tree = descendants(os.getpid())
    if len(tree) > (most := limits.get("processes", len(tree))):
        return f"was ended because it ran {len(tree)} processes; its limit is {most}"
    if (memory := limits.get("memory")) is None or sum(map(resident, tree)) <= memory:
        return ""
    if (used := sum(map(proportional, tree))) <= memory:
        return ""
    return f"was ended because it used {used // MB} MB of memory; its limit is {memory // MB} MB"


def _exhausted(status: int, used: resource.struct_rusage, limits: Mapping[str, int]) -> str:
    """What limit of the kernel's a process ended by; whoever runs it for us has 128 and the signal as its status."""
    code = os.waitstatus_to_exitcode(status)
    number = -code if code < 0 else code - 128
    seconds = used.ru_utime + used.ru_stime
    cpu, size = limits.get("cpu"), limits.get("size")
    if cpu is not None and (number == signal.SIGXCPU or (number == signal.SIGKILL and seconds >= cpu)):
        return f"was ended because it used {seconds:.1f} s of CPU time; its limit is {cpu} s"
    if size is not None and number == signal.SIGXFSZ:
        return f"was ended because it wrote to a file beyond {size // MB} MB, its limit"
    return ""


def _sweep(upstream: int) -> None:
    """Kills all below us until nobody is left; those who lose their parents become our children."""
    _try(os.killpg, upstream, signal.SIGKILL)  # at one moment, in which none of them can start another
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        for pid in descendants(os.getpid()):
            _try(os.kill, pid, signal.SIGKILL)
        time.sleep(0.001)  # what is killed takes a moment to go


def _children(pid: int) -> list[int]:
    found = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as children:
                found += [int(child) for child in children.read().split()]
    except OSError:  # it is gone meanwhile
        pass
    return found


def _try(call: Callable[[int, int], None], pid: int, argument: int) -> None:
    """For a process, or a group, that may be gone."""
    try:  # noqa: SIM105 (what is not imported takes no memory, and there are many of us)
        call(pid, argument)
    except (ProcessLookupError, PermissionError):
        pass


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
    main(
        int(sys.argv[1]),
        int(sys.argv[2]),
        {key: int(value) for key, _, value in (one.partition("=") for one in sys.argv[3].split(",")) if key},
        sys.argv[4],
        sys.argv[5:],
    )

"""How much memory the system can still give to this process."""

from pathlib import Path

RESERVE = 10
"""One part in so many is left to everything else that grows while a model runs."""
_GROUP = Path("/sys/fs/cgroup")


def available() -> int | None:
    """Bytes that this process may still take without swapping or being killed; None where the system does not say."""
    return min((room for room in (_machine(), _container()) if room is not None), default=None)


def free() -> int | None:
    """Bytes that keys and values may take of what is available; None where the system does not say.

    Weights that are mapped from files count as taken: the system could drop them, and would read them again each step.
    """
    if (room := available()) is None:
        return None
    room = max(room - _fields(Path("/proc/self/status")).get("RssFile", 0), 0)
    return room - room // RESERVE


def _machine() -> int | None:
    return _fields(Path("/proc/meminfo")).get("MemAvailable")


def _container() -> int | None:
    """What is left of a version 2 control group's limit, pages that it can drop included."""
    try:
        limit, used = (int((_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
        return max(limit - used + int(stat.get("file", 0)), 0)
    except (OSError, ValueError):  # no such group, or one without a limit: "max"
        return None


def _fields(file: Path) -> dict[str, int]:
    """The lines `name: number kB` of a file of the kernel's; empty where there is none."""
    try:
        lines = (line.split() for line in file.read_text().splitlines())
    except OSError:
        return {}
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if words[2:] == ["kB"]}

"""A PostgreSQL of our own."""

import os
import pwd
import resource
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SETTINGS = ("listen_addresses=", "max_connections=60", "shared_buffers=32MB", "log_min_messages=fatal")


def _programs() -> Path:
    """Where Debian puts them, out of the way of PATH, or where they are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    path = str(found[-1]) if found else shutil.which("initdb")
    assert path, "PostgreSQL is missing"
    return Path(path).parent


@dataclass
class PostgresServer:
    """A PostgreSQL of our own, on a socket in a folder of its own, for user and database `postgres`.

    It refuses to run as root, and is then somebody else's process. Once it is started with `file_bytes`, no file grows
    beyond that, as on a full disk.
    """

    folder: Path
    settings: tuple[str, ...] = ()
    file_bytes: int = resource.RLIM_INFINITY
    programs: Path = field(default_factory=_programs)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={str(self.folder).replace('/', '%2F')}"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def create(self) -> None:
        self._do("initdb", "--pgdata", str(self.data), "--username", "postgres", "--auth", "trust", "--no-sync",
                 "--locale", "C", "--encoding", "UTF8")  # fmt: skip

    def start(self) -> None:
        settings = (f"unix_socket_directories={self.folder}", *SETTINGS, *self.settings)
        options = " ".join(f"-c {setting}" for setting in settings)
        self._do("pg_ctl", "start", "--wait", "--pgdata", str(self.data), "--options", options,
                 "--log", str(self.folder / "log"))  # fmt: skip

    def stop(self, mode: str = "immediate") -> None:
        self._do("pg_ctl", "stop", "--wait", "--pgdata", str(self.data), "--mode", mode)

    def restart(self) -> None:
        """As after a crash."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Nobody answers any more; connections stay."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes():
            os.kill(process, number)

    def _processes(self) -> Sequence[int]:
        parent = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return (parent, *map(int, children))

    def _do(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        user = None
        if os.geteuid() == 0:
            user = pwd.getpwnam("nobody").pw_uid
            os.chown(self.folder, user, -1)
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, user=user, text=True,
                              cwd=self.folder, timeout=60, preexec_fn=self._limit)  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stderr}\n{self._log()}"

    def _limit(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_bytes, resource.RLIM_INFINITY))

    def _log(self) -> str:
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

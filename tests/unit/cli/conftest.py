import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
from narthex.cli.supervisor import Supervised

CHILD = """
import os, signal, socket, sys
port, name, *rest = sys.argv[1:]
life = socket.create_connection(("127.0.0.1", int(port)))
stopped = []
if "deaf" in rest:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
life.sendall(f"{name} {os.getpid()} {' '.join(rest)}\\n".encode())
if "fails" in rest:
    sys.exit(int(rest[1]))
print("a line of its own")
print(f"narthex-{name} ready pid={os.getpid()} port=7", flush=True)
while True:
    signal.pause()
"""


SUPERVISOR = """
import asyncio, os, sys
from narthex.cli.supervisor import Supervised, supervise
child, port = sys.argv[1:]
async def main():
    program = Supervised("server", lambda known: [sys.executable, "-c", child, port, "server"], os.environ)
    return await supervise([program], lambda: "ready", grace=5)
asyncio.run(main())
"""


@dataclass(frozen=True, slots=True)
class Birth:
    name: str
    pid: int
    words: tuple[str, ...]


class Nursery:
    """Hears of the birth of every child, and of its death when the child's connection ends."""

    def __init__(self) -> None:
        self.port = 0
        self._births: asyncio.Queue[Birth] = asyncio.Queue()
        self._deaths: dict[int, asyncio.Event] = {}

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name, pid, *words = (await reader.readline()).decode().split()
        death = self._deaths[int(pid)] = asyncio.Event()
        self._births.put_nowait(Birth(name, int(pid), tuple(words)))
        with contextlib.suppress(ConnectionError):  # a killed child resets
            await reader.read()
        death.set()
        writer.close()

    async def born(self) -> Birth:
        async with asyncio.timeout(20):
            return await self._births.get()

    async def dead(self, child: Birth) -> None:
        async with asyncio.timeout(20):
            await self._deaths[child.pid].wait()

    def program(self, name: str, *words: str, after: Supervised | None = None) -> Supervised:
        """A supervised child that is told the port of its last ready line."""

        def command(known: Mapping[str, str]) -> Sequence[str]:
            told = [f"port={known['port']}"] if known else []
            return [sys.executable, "-c", CHILD, str(self.port), name, *words, *told]

        return Supervised(name, command, os.environ, after)

    async def supervisor(self, before: str = "") -> asyncio.subprocess.Process:
        """One in a process of its own, where `before` is done first, with one child."""
        return await asyncio.create_subprocess_exec(sys.executable, "-c", before + SUPERVISOR, CHILD, str(self.port))


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    nursery = Nursery()
    async with await asyncio.start_server(nursery.meet, "127.0.0.1", 0) as server:
        nursery.port = server.sockets[0].getsockname()[1]
        yield nursery


@pytest.fixture
def narthex() -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs a command of the command line to its end."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NARTHEX_")}

    def run(*words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "narthex.cli.main", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean | environ)

    return run

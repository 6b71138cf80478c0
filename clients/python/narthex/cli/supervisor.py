"""Keeps a few programs running together: starts them, restarts the ones that die, drains them at the end."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narthex.cli.exits import Exit

_TETHER = str(Path(__file__).with_name("tether.py"))

_OWN_GROUP: dict[str, Any] = {} if sys.platform == "win32" else {"process_group": 0}
"""So that Ctrl-C reaches the supervisor alone."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds between restarts: from `first`, doubled up to `longest`; `first` again after `steady` seconds up."""

    first: float = 0.5
    longest: float = 30.0
    steady: float = 60.0


class StartFailed(Exception):
    """A program ended before it was ever ready; it has told why on stderr."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"{name} ended with {_told(code)} before it was ready")
        self.code = code if code in (Exit.USAGE, Exit.MODEL, Exit.PORT) else Exit.INTERNAL


class Supervised:
    """One program: its process now, and what its ready line said.

    `command` is called with the fields of the last ready line (empty at first), so that a port which the program chose
    itself can be given back to it on a restart. The first start waits until `after` is ready.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[Mapping[str, str]], Sequence[str]],
        environ: Mapping[str, str],
        after: "Supervised | None" = None,
    ) -> None:
        self.name = name
        self.ready: asyncio.Future[Mapping[str, str]] = asyncio.get_running_loop().create_future()
        self._command = command
        self._environ = environ
        self._after = after
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    async def run(self, backoff: Backoff) -> None:
        """Until `stop`: keeps the program running. Raises StartFailed if it ends before its first ready line."""
        delay = backoff.first
        if self._after:
            stopping = asyncio.create_task(self._stopping.wait())
            await _first([self._after.ready, stopping])
            stopping.cancel()
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._once()
            if self._stopping.is_set():
                return
            if not self.ready.done():
                raise StartFailed(self.name, code)
            if time.monotonic() - started > backoff.steady:
                delay = backoff.first
            _tell(f"{self.name} ended with {_told(code)}; starting it again in {delay:g} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), delay)
            delay = min(2 * delay, backoff.longest)

    async def stop(self, grace: float) -> None:
        """Asks the program to drain, and after `grace` seconds kills it with everything in its process group."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), grace)
        except TimeoutError:
            _tell(f"{self.name} did not end within {grace:g} s and is killed")
            self.kill()
            await process.wait()

    def kill(self) -> None:
        if (process := self._process) is not None and process.returncode is None:
            _kill_group(process.pid)

    async def _once(self) -> int:
        fields = self.ready.result() if self.ready.done() else {}
        process = self._process = await asyncio.create_subprocess_exec(
            *_tethered(self._command(fields)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env=dict(self._environ),
            **_OWN_GROUP,
        )
        try:
            if self._stopping.is_set():  # `stop` came while the process was being made and could not see it
                self.kill()
            assert process.stdout
            async for line in _lines(process.stdout):
                self._heard(line)
            return await process.wait()
        finally:
            if process.returncode is None:  # cancelled
                self.kill()

    def _heard(self, line: str) -> None:
        start, _, rest = line.partition(" ready")
        if start != f"narthex-{self.name}":
            print(line, flush=True)
        elif self.ready.done():
            _tell(f"{self.name} is ready again")
        else:
            self.ready.set_result(dict(field.split("=", 1) for field in rest.split() if "=" in field))


async def supervise(
    programs: Sequence[Supervised], announce: Callable[[], str], *, grace: float, backoff: Backoff = Backoff()
) -> int:
    """Runs `programs` until SIGINT or SIGTERM, then drains them; a second signal kills them. Returns the exit code.

    Prints `announce()` once all are ready. A program that never gets ready ends the others: its exit code is returned.
    """
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    restore = _deliver(signals)
    running = [asyncio.create_task(program.run(backoff), name=program.name) for program in programs]
    told = asyncio.create_task(_announce(programs, announce))
    signalled = asyncio.create_task(signals.get())
    code = int(Exit.OK)
    try:
        await _first([*running, signalled])
        if signalled.done():
            code = Exit.INTERRUPTED if signalled.result() == signal.SIGINT else Exit.OK
        else:
            code = _failure(running)
        stopping = asyncio.gather(*(program.stop(grace) for program in programs))
        again = asyncio.create_task(signals.get())
        await _first([stopping, again])
        if not stopping.done():
            for program in programs:
                program.kill()
        await stopping
        again.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        return int(code)
    finally:
        for task in (*running, told, signalled):
            task.cancel()
        restore()


async def _announce(programs: Sequence[Supervised], announce: Callable[[], str]) -> None:
    for program in programs:
        await asyncio.shield(program.ready)
    print(announce(), flush=True)


def _failure(running: Sequence["asyncio.Task[None]"]) -> int:
    for task in running:
        if task.done() and (error := task.exception()):
            _tell(str(error))
            return error.code if isinstance(error, StartFailed) else Exit.INTERNAL
    return Exit.INTERNAL


async def _first(several: Sequence["asyncio.Future[Any]"]) -> None:
    """Until one of several is done."""
    await asyncio.wait(several, return_when=asyncio.FIRST_COMPLETED)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines of any length: an over-long one comes in pieces."""
    while True:
        try:
            line = await stream.readuntil(b"\n")
        except asyncio.LimitOverrunError as error:
            line = await stream.readexactly(error.consumed)
        except asyncio.IncompleteReadError as error:
            line = error.partial
            if not line:
                return
        yield line.decode(errors="replace").rstrip("\r\n")


def _deliver(signals: "asyncio.Queue[signal.Signals]") -> Callable[[], None]:
    """Puts SIGINT and SIGTERM on the queue; the answer undoes it."""
    loop = asyncio.get_running_loop()
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in wanted}

    def heard(number: int, frame: object) -> None:
        loop.call_soon_threadsafe(signals.put_nowait, signal.Signals(number))

    for number in wanted:
        signal.signal(number, heard)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    return restore


def _tethered(command: Sequence[str]) -> Sequence[str]:
    """What is run so that the death of the supervisor, however it dies, ends the child: on Linux a small program before
    it, as a `preexec_fn` would run in a copy of a process whose other threads are gone, with the locks that they held.
    Elsewhere a killed supervisor leaves its children.
    """
    if sys.platform != "linux":
        return command
    path = shutil.which(command[0]) or command[0]
    return [sys.executable, "-I", "-S", _TETHER, str(os.getpid()), path, *command]


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":
            os.kill(pid, signal.SIGTERM)
        else:
            os.killpg(pid, signal.SIGKILL)


def _told(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _tell(message: str) -> None:
    print(f"narthex: {message}", file=sys.stderr, flush=True)

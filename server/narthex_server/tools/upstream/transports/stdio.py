"""A server as a child process that speaks JSON-RPC, one message a line, on its standard input and output."""

import asyncio
import logging
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from narthex_server.errors import Unavailable
from narthex_server.tools.upstream.limits import MB, Limits
from narthex_server.tools.upstream.lines import Lines, LongLine
from narthex_server.tools.upstream.session import Session
from narthex_server.tools.upstream.source import Process
from narthex_server.tools.upstream.transports import bubblewrap
from narthex_server.tools.upstream.transports.environment import environment_of
from narthex_server.tools.upstream.transports.link import Link
from narthex_server.tools.upstream.transports.report import Report

if sys.platform == "linux":
    from narthex_server.tools.upstream.transports.warden import descendants

CHUNK = 256 * 1024
"""Bytes that are read at once, and that may wait to be read."""
MAX_WORDS = 2000
"""Bytes of a line of stderr that are looked at."""
LAST_LINES = 20
"""Of what is read of stderr at once those that are looked at, where nobody reads them all."""
FLOOD, FLOOD_PAUSE = 32 * 1024, 0.05
"""Bytes of stderr at once after which nothing of it is read for so many seconds."""
GRACE = 1.0
"""Seconds that a server gets to go by itself once its input is closed, and again after SIGTERM."""

_WARDEN = str(Path(__file__).with_name("warden.py"))
_WARDED = sys.platform == "linux"
_TELLS_CHILDREN = "/proc/thread-self/children"

_log = logging.getLogger(__name__)


@asynccontextmanager
async def connect(
    source: Process, max_bytes: int, link: Link, running: Callable[[int], None] = lambda pid: None
) -> AsyncGenerator[Session]:
    """Starts the server and yields the session with it; the server and its children are gone on exit.

    An answer of more than `max_bytes` fails its request. When the server goes by itself `link.ended` is told why,
    before the session ends. `running` is told the process below which all of it is, and 0 when that is gone.

    Raises:
        OSError: the command cannot be run.
        Unavailable: a secret of its environment cannot be read, or it is to have limits or a sandbox that cannot be
            had here.
    """
    environment = environment_of(source.env_allow, link.secrets.reveal_all(source.env))
    path = shutil.which(source.command, path=environment.get("PATH"))
    if path is None:
        raise FileNotFoundError(f"command not found: {source.command}")
    if source.cwd is not None and not os.path.isdir(source.cwd):  # noqa: ASYNC240 (one stat at start)
        raise NotADirectoryError(f"working directory not found: {source.cwd}")
    report = Report()
    try:
        process = await asyncio.create_subprocess_exec(
            *_command(source, path, report),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=source.cwd,
            env=environment,
            limit=CHUNK,
            start_new_session=True,  # a group of its own, so that its children go with it
            pass_fds=(report.descriptor,) if _WARDED else (),
        )
    except BaseException:
        report.close()
        raise
    finally:
        report.given()
    child = _Child(process, max_bytes, link, report)
    listening = asyncio.create_task(child.listen())
    running(process.pid)
    try:
        yield Session(child, link.locks)
    finally:
        child.leaving = True
        try:
            await child.ask_to_go()
        finally:  # also if that is cancelled
            await child.end()
            running(0)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            child.close()


def _command(source: Process, path: str, report: Report) -> list[str]:
    """What is run: on Linux a small program before it, as a `preexec_fn` would run in a copy of a process with threads
    and gigabytes mapped.
    """
    limits = source.limits or Limits()
    program, command = path, [source.command, *source.args]
    if (wrapper := bubblewrap.find(source.sandbox)) is not None:
        program, command = wrapper, bubblewrap.wrapped(source.sandbox, [path, *source.args], source.cwd)
        if limits.processes:
            limits = replace(limits, processes=limits.processes + bubblewrap.OWN_PROCESSES)
    if not _WARDED:
        if limits != Limits():
            raise Unavailable("its process has limits, which need Linux", reason="LIMITS_UNAVAILABLE")
        return [program, *command[1:]]
    if (limits.memory_mb or limits.processes) and not os.path.exists(_TELLS_CHILDREN):
        raise Unavailable(
            "memory and processes are limited, which needs a Linux whose /proc tells the children of a process",
            reason="LIMITS_UNAVAILABLE",
        )
    warden = [sys.executable, "-I", "-S", _WARDEN, str(os.getpid()), str(report.descriptor), _kept(limits)]
    return [*warden, program, *command]


def _kept(limits: Limits) -> str:
    """As the warden is told them."""
    told = {
        "memory": limits.memory_mb * MB,
        "processes": limits.processes,
        "cpu": limits.cpu_secs,
        "files": limits.open_files,
        "size": limits.file_mb * MB,
    }
    return ",".join(f"{key}={limit}" for key, limit in told.items() if limit)


class _Child:
    """The peer of a session: a process, its output cut into lines."""

    def __init__(self, process: asyncio.subprocess.Process, longest: int, link: Link, report: Report) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.name = link.name
        self.longest = longest
        self._process = process
        self._input = process.stdin
        self._output = process.stdout
        self._ended = link.ended
        self._secrets = link.secrets
        self._report = report
        self._lines = Lines(longest)
        self._last_words: deque[str] = deque(maxlen=3)
        self._garbage = ""
        self.leaving = False

    async def read(self) -> Sequence[bytes | LongLine]:
        reason = ""
        try:
            while piece := await self._output.read(CHUNK):
                if lines := self._lines.feed(piece):
                    return lines
        except OSError as error:
            reason = f"its output broke: {type(error).__name__}"
        if not self.leaving:
            self._ended(reason or await self._exit_reason())
        return ()

    def write(self, line: bytes) -> None:
        if self._input.is_closing():
            raise BrokenPipeError
        self._input.write(line)

    async def drain(self) -> None:
        await self._input.drain()

    def skip(self, line: bytes) -> None:
        """A stray `print` must not end a session."""
        if not self._garbage and line.strip():
            self._garbage = self._secrets.hide(line[:MAX_WORDS].decode("utf-8", "replace"))[:80].strip()
            _log.warning("upstream %s prints to stdout what is not JSON-RPC, e.g. %r", self.name, self._garbage)

    async def listen(self) -> None:
        """Keeps the last lines of stderr: they mostly say why a server went."""
        assert self._process.stderr is not None
        lines = Lines(MAX_WORDS)
        with suppress(OSError):
            while piece := await self._process.stderr.read(CHUNK):
                told = lines.feed(piece)
                for line in told if _log.isEnabledFor(logging.DEBUG) else told[-LAST_LINES:]:
                    words = line.head if isinstance(line, LongLine) else line
                    if text := self._secrets.hide(words[:MAX_WORDS].decode("utf-8", "replace").rstrip()):
                        self._last_words.append(text[-300:])
                        _log.debug("%s: %s", self.name, text)
                if len(piece) > FLOOD:
                    await asyncio.sleep(FLOOD_PAUSE)

    async def ask_to_go(self) -> None:
        """Closes its input and, if it is still there after its time, sends SIGTERM and gives it that time again."""
        self._input.close()
        if await self._gone(GRACE):
            return
        if _WARDED:
            self._process.terminate()
        else:
            self._signal_group(signal.SIGTERM)
        await self._gone(GRACE)

    async def end(self) -> None:
        """Kills what is left of it and of all it has started."""
        if _WARDED and self._process.returncode is None:
            self._process.send_signal(signal.SIGQUIT)
            if not await self._gone(GRACE) and sys.platform == "linux":  # an upstream can stop its own warden
                for pid in descendants(self._process.pid):
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
        self._signal_group(getattr(signal, "SIGKILL", signal.SIGTERM))
        if not await self._gone(GRACE):
            _log.warning("the process of upstream %s (pid %d) cannot be killed", self.name, self._process.pid)

    def close(self) -> None:
        self._process._transport.close()  # type: ignore[attr-defined]  # it warns at collection otherwise
        self._report.close()

    async def _gone(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), seconds)
        return self._process.returncode is not None

    def _signal_group(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)

    async def _exit_reason(self) -> str:
        await self._gone(GRACE)
        if limit := self._report.read():
            return limit
        match self._process.returncode:
            case None:
                reason = "closed its output"
            case int(code) if code < 0:
                reason = f"was killed by {signal.Signals(-code).name}"
            case code:
                reason = f"exited with status {code}"
        if self._last_words:
            reason += f"; last on stderr: {' | '.join(self._last_words)}"
        elif self._garbage:
            reason += f"; printed {self._garbage!r} instead of JSON-RPC"
        return reason

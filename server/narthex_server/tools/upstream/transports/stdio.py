"""A server as a child process that speaks JSON-RPC, one message a line, on its standard input and output."""

import asyncio
import logging
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from mcp.client.stdio import get_default_environment

from narthex_server.tools.upstream.lines import Lines, LongLine
from narthex_server.tools.upstream.session import Session
from narthex_server.tools.upstream.source import Process
from narthex_server.tools.upstream.transports.link import Link

CHUNK = 256 * 1024
"""Bytes that are read at once, and that may wait to be read."""
MAX_WORDS = 2000
"""Bytes of a line of stderr that are looked at."""
GRACE = 1.0
"""Seconds that a server gets to go by itself once its input is closed, and again after SIGTERM."""

_WARDEN = str(Path(__file__).with_name("warden.py"))
_WARDED = sys.platform == "linux"

_log = logging.getLogger(__name__)


@asynccontextmanager
async def connect(source: Process, max_bytes: int, link: Link) -> AsyncGenerator[Session]:
    """Starts the server and yields the session with it; the server and its children are gone on exit.

    An answer of more than `max_bytes` fails its request. When the server goes by itself `link.ended` is told why,
    before the session ends.

    Raises:
        OSError: the command cannot be run.
        Unavailable: a secret of its environment cannot be read.
    """
    environment = get_default_environment() | link.secrets.reveal_all(source.env)
    path = shutil.which(source.command, path=environment.get("PATH"))
    if path is None:
        raise FileNotFoundError(f"command not found: {source.command}")
    if source.cwd is not None and not os.path.isdir(source.cwd):  # noqa: ASYNC240 (one stat at start)
        raise NotADirectoryError(f"working directory not found: {source.cwd}")
    command = [path, *source.args]
    if _WARDED:  # a small program: a `preexec_fn` would run in a copy of a process with threads and gigabytes mapped
        command = [sys.executable, "-I", "-S", _WARDEN, str(os.getpid()), path, source.command, *source.args]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=source.cwd,
        env=environment,
        limit=CHUNK,
        start_new_session=True,  # a group of its own, so that its children go with it
    )
    child = _Child(process, max_bytes, link)
    listening = asyncio.create_task(child.listen())
    try:
        yield Session(child)
    finally:
        child.leaving = True
        try:
            await child.ask_to_go()
        finally:  # also if that is cancelled
            await child.end()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            child.close()


class _Child:
    """The peer of a session: a process, its output cut into lines."""

    def __init__(self, process: asyncio.subprocess.Process, longest: int, link: Link) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.name = link.name
        self.longest = longest
        self._process = process
        self._input = process.stdin
        self._output = process.stdout
        self._ended = link.ended
        self._secrets = link.secrets
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
                for line in lines.feed(piece):
                    words = line.head if isinstance(line, LongLine) else line
                    if text := self._secrets.hide(words[:MAX_WORDS].decode("utf-8", "replace").rstrip()):
                        self._last_words.append(text[-300:])
                        _log.debug("%s: %s", self.name, text)

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
            await self._gone(GRACE)
        self._signal_group(getattr(signal, "SIGKILL", signal.SIGTERM))
        if not await self._gone(GRACE):
            _log.warning("the process of upstream %s (pid %d) cannot be killed", self.name, self._process.pid)

    def close(self) -> None:
        self._process._transport.close()  # type: ignore[attr-defined]  # it warns at collection otherwise

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

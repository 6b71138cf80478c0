"""A server as a child process that speaks JSON-RPC, one message a line, on its standard input and output."""

import asyncio
import logging
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from narthex_server.tools.upstream.source import Process
from narthex_server.tools.upstream.transports.link import Link

Incoming = SessionMessage | Exception
Streams = tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]

MAX_LINE = 64 * 1024 * 1024
GRACE = 1.0
"""Seconds that a server gets to go by itself once its input is closed, and again after SIGTERM."""

# Runs in the child before the server does: on Linux the kernel then kills the server when we die, however we die.
# A `preexec_fn` would fork a process that has threads and gigabytes mapped; an exec of a small interpreter is safe.
_TIED = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[3:])
"""

_log = logging.getLogger(__name__)


@asynccontextmanager
async def connect(source: Process, link: Link) -> AsyncGenerator[Streams]:
    """Starts the server and yields its two streams of messages; the server and its children are gone on exit.

    `link.ended` is told why, before the streams close, when the server goes by itself.

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
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), path, source.command, *source.args]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=source.cwd,
        env=environment,
        limit=MAX_LINE,
        start_new_session=True,  # a group of its own, so that its children go with it
    )
    child = _Child(process, link)
    tasks = [asyncio.create_task(run()) for run in (child.read, child.write, child.listen)]
    try:
        yield child.received, child.to_send
    finally:
        child.leaving = True
        await child.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        child.close()


class _Child:
    def __init__(self, process: asyncio.subprocess.Process, link: Link) -> None:
        self._name = link.name
        self._process = process
        self._ended = link.ended
        self._secrets = link.secrets
        self._incoming, self.received = anyio.create_memory_object_stream[Incoming](64)
        self.to_send, self._outgoing = anyio.create_memory_object_stream[SessionMessage](64)
        self._last_words: deque[str] = deque(maxlen=3)
        self._garbage = ""
        self.leaving = False

    async def read(self) -> None:
        """Passes messages on; a line that is none is skipped, as a stray `print` must not end a session."""
        assert self._process.stdout is not None
        reason = ""
        try:
            while line := await self._process.stdout.readline():
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError:
                    self._skip(line)
                    continue
                await self._incoming.send(SessionMessage(message))
        except ValueError:
            reason = f"sent a line longer than {MAX_LINE} bytes"
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            reason = f"its output broke: {type(error).__name__}"
        if not self.leaving:
            self._ended(reason or await self._exit_reason())
        self._incoming.close()

    async def write(self) -> None:
        assert self._process.stdin is not None
        # a child that has gone is reported by `read`, which knows how
        with suppress(OSError, anyio.ClosedResourceError):
            async for message in self._outgoing:
                line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                self._process.stdin.write(line.encode() + b"\n")
                await self._process.stdin.drain()

    async def listen(self) -> None:
        """Keeps the last lines of stderr: they mostly say why a server went."""
        assert self._process.stderr is not None
        with suppress(ValueError, OSError):
            while line := await self._process.stderr.readline():
                text = line[:2000].decode("utf-8", "replace").rstrip()
                if text:
                    self._last_words.append(self._secrets.hide(text)[-300:])
                    _log.debug("%s: %s", self._name, self._secrets.hide(text))

    async def stop(self) -> None:
        """Closes the input, then SIGTERM, then SIGKILL to the whole group; each step has its time."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        for signal_number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
            if await self._gone(GRACE):
                break
            self._signal(signal_number)
        # children that outlived the leader still hold its pipes
        self._signal(getattr(signal, "SIGKILL", signal.SIGTERM))
        if not await self._gone(GRACE):
            _log.warning("the process of upstream %s (pid %d) cannot be killed", self._name, self._process.pid)

    def close(self) -> None:
        for stream in (self._incoming, self.received, self.to_send, self._outgoing):
            stream.close()
        self._process._transport.close()  # type: ignore[attr-defined]  # it warns at collection otherwise

    async def _gone(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), seconds)
        return self._process.returncode is not None

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)

    def _skip(self, line: bytes) -> None:
        if not line.strip():
            return
        if not self._garbage:
            self._garbage = self._secrets.hide(line[:2000].decode("utf-8", "replace"))[:80].strip()
            _log.warning("upstream %s prints to stdout what is not JSON-RPC, e.g. %r", self._name, self._garbage)

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

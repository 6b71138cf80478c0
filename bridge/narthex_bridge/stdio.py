"""The program behind `narthex mcp`: MCP on standard input and output, for clients that only start processes."""

import asyncio
import contextlib
import logging
import os
import queue
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from narthex.settings import Address, SettingsError, option, parse

from narthex_bridge.config import MIB, BridgeConfig, LogLevel, ServerTlsConfig
from narthex_bridge.core import Core
from narthex_bridge.endpoints.stdio import StdioEndpoint
from narthex_bridge.main import OK, USAGE, loop_factory
from narthex_bridge.metrics import Metrics
from narthex_bridge.outbox import Outbox
from narthex_bridge.sessions import Session

DESCRIPTION = "Speak MCP on standard input and output, for a client that starts this program."
SERVER_S = 2.0
_FOR_EVER_S = 86_400.0


@dataclass(frozen=True, slots=True)
class StdioConfig:
    """What this program can be told."""

    server: Address = option(Address("127.0.0.1", 50051), "the narthex server's gRPC address")
    server_key_file: Path | None = option(None, "file with your API key; without it NARTHEX_API_KEY")
    max_body_bytes: int = option(16 * MIB, "largest message, bytes", minimum=1024)
    max_calls: int = option(100, "requests in work at once; more are told to retry", minimum=1)
    call_timeout_s: float = option(3600.0, "longest tool call, seconds", minimum=0.1)
    shutdown_grace: float = option(10.0, "seconds that running calls get when the client has closed its end", minimum=0)
    log_level: LogLevel = option("warning", "the least that is logged, on stderr")
    server_tls: ServerTlsConfig = field(default_factory=ServerTlsConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until standard input ends, or a signal; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    try:
        config = parse(StdioConfig, "mcp", words, prog="narthex mcp", description=DESCRIPTION)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else USAGE
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger().setLevel(config.log_level.upper())
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(serve(config, sys.stdin.buffer, sys.stdout.buffer))
    except (SettingsError, OSError, ssl.SSLError) as error:
        print(f"narthex mcp: {error}", file=sys.stderr)
        return USAGE


async def serve(config: StdioConfig, source: BinaryIO, sink: BinaryIO) -> int:
    """Serves one client on two pipes until the first ends or the second is gone."""
    core = Core(_bridge(config), _credential(config), Metrics(), Session.notify)
    outbox, ended = Outbox(), asyncio.Event()
    endpoint = StdioEndpoint(core.dispatcher, outbox)
    core.changes.listen(endpoint.list_changed)
    loop = asyncio.get_running_loop()
    if sys.platform != "win32":
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
    reader = Reader(source, config.max_body_bytes)
    await core.start()
    # A list that is read before the server says which it is would be told to have changed, and clients that take each
    # line for an answer cannot bear that.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(core.catalog.followed.wait(), SERVER_S)
    reader.start(
        received=lambda line: loop.call_soon_threadsafe(endpoint.receive, line),
        too_long=lambda: loop.call_soon_threadsafe(endpoint.refuse, f"A message has at most {reader.limit} bytes."),
        ended=lambda: loop.call_soon_threadsafe(ended.set),
    )
    writing = asyncio.create_task(_write(outbox, Writer(sink), ended))
    looking = asyncio.create_task(_look(core, config))
    await ended.wait()
    looking.cancel()
    await core.dispatcher.drain(config.shutdown_grace)
    endpoint.close()
    await writing
    await core.close()
    return OK


# Pipes may be files or terminals, which event loops cannot wait for: a thread each, and daemons, as one that is blocked
# must not keep the process.


class Reader:
    """Reads lines of at most `limit` bytes."""

    def __init__(self, source: BinaryIO, limit: int) -> None:
        self.limit = limit
        self._source = source

    def start(
        self, received: Callable[[bytes], object], too_long: Callable[[], object], ended: Callable[[], object]
    ) -> None:
        """Begins; the functions are called in the thread."""
        threading.Thread(target=self._run, args=(received, too_long, ended), daemon=True).start()

    def _run(
        self, received: Callable[[bytes], object], too_long: Callable[[], object], ended: Callable[[], object]
    ) -> None:
        try:
            while line := self._source.readline(self.limit + 1):
                if len(line) <= self.limit:
                    received(line)
                    continue
                while line and not line.endswith(b"\n"):
                    line = self._source.readline(self.limit + 1)
                too_long()
        finally:
            ended()


class Writer:
    """Writes one piece after the other."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._pieces: queue.SimpleQueue[tuple[bytes, asyncio.AbstractEventLoop, asyncio.Future[None]]]
        self._pieces = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    async def write(self, piece: bytes) -> None:
        """Returns when it is written. Raises OSError where nobody reads any more."""
        loop = asyncio.get_running_loop()
        written: asyncio.Future[None] = loop.create_future()
        self._pieces.put((piece, loop, written))
        await written

    def _run(self) -> None:
        while True:
            piece, loop, written = self._pieces.get()
            try:
                self._sink.write(piece)
                self._sink.flush()
            except OSError as error:
                loop.call_soon_threadsafe(written.set_exception, error)
                return
            loop.call_soon_threadsafe(written.set_result, None)


async def _look(core: Core, config: StdioConfig) -> None:
    """Says where no server runs: what a client shows of it may be no more than that it has no tools."""
    if not await core.connection.healthy():
        print(
            f"narthex mcp: no narthex server answers at {config.server} yet: start one with `narthex serve`, "
            "or name another with --server",
            file=sys.stderr,
        )


async def _write(outbox: Outbox, writer: Writer, ended: asyncio.Event) -> None:
    while (messages := await outbox.take(_FOR_EVER_S)) is not None:
        try:
            await writer.write(b"".join(message + b"\n" for message in messages))
        except OSError:
            outbox.close()
            ended.set()
            return


def _bridge(config: StdioConfig) -> BridgeConfig:
    return BridgeConfig(
        server=config.server,
        server_tls=config.server_tls,
        max_calls=config.max_calls,
        call_timeout_s=config.call_timeout_s,
    )


def _credential(config: StdioConfig) -> str:
    if config.server_key_file:
        return config.server_key_file.read_text("utf-8").strip()
    return os.environ.get("NARTHEX_API_KEY", "")


if __name__ == "__main__":
    sys.exit(main())

"""The program behind `narthex mcp`: MCP on standard input and output, for clients that only start processes."""

import asyncio
import contextlib
import logging
import os
import signal
import ssl
import sys
from collections.abc import Sequence
from typing import BinaryIO

from narthex.settings import SettingsError, parse

from narthex_bridge.caller import LOCAL
from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.config.stdio import StdioConfig
from narthex_bridge.endpoints.stdio import StdioEndpoint
from narthex_bridge.main import OK, USAGE, loop_factory
from narthex_bridge.mcp.core import Core
from narthex_bridge.metrics import Metrics
from narthex_bridge.outbox import Outbox
from narthex_bridge.sessions.session import Session
from narthex_bridge.transport.pipes import Reader, Writer

DESCRIPTION = "Speak MCP on standard input and output, for a client that starts this program."
SERVER_S = 2.0
_FOR_EVER_S = 86_400.0


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
        await asyncio.wait_for(core.catalog.followed(LOCAL.tenant), SERVER_S)
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
    core.ended(endpoint.session)
    await writing
    await core.close()
    return OK


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

"""`narthex server`: one server process, from its command line to its exit code."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum

from narthex.settings import SettingsError

from narthex_server.config.server import ServerConfig, from_command_line

log = logging.getLogger("narthex_server.main")  # also when run by `python -m`

TALKATIVE = ("mcp", "httpx2", "httpcore2", "websockets")
"""They log what upstreams send, which may repeat what these were told; what matters of it we say ourselves."""


class Exit(IntEnum):
    """How the process ends."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    MODEL = 3
    ADDRESS = 4
    INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    config = from_command_line(argv)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # asked for each line, never shown
    # Ours alone: what libraries say below a warning helps nobody here.
    logging.getLogger("narthex_server").setLevel(config.log_level.upper())
    for library in TALKATIVE:
        logging.getLogger(library).setLevel(logging.CRITICAL)
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # read when grpc is imported, which app does
    # Upstreams are forked off while gRPC runs. What gRPC does in a fork, so that the child could use it, ends the child
    # with SIGSEGV or SIGABRT now and then, before it becomes the upstream.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(serve(config))


async def serve(config: ServerConfig) -> int:
    """Starts, says that it is ready on stdout, waits for a signal, drains."""
    from narthex_server.app import serving
    from narthex_server.listening import AddressInUse
    from narthex_server.stocking import ModelFailed

    signals = _Signals()
    try:
        with signals:
            async with serving(config) as ready:
                signals.started()
                models = ",".join(ready.models) or "-"
                where = f"grpc={ready.grpc} metrics={ready.metrics}"
                print(f"narthex-server ready {where} models={models} tools={ready.tools}", flush=True)
                await signals.wait()
                log.info("draining: running calls have %g s", config.shutdown_grace)
    except SettingsError as error:
        return _failed(Exit.USAGE, error)
    except ModelFailed as error:
        return _failed(Exit.MODEL, error)
    except AddressInUse as error:
        return _failed(Exit.ADDRESS, error)
    except asyncio.CancelledError:
        if signals.received is None:
            raise
    return Exit.INTERRUPTED if signals.received == signal.SIGINT else Exit.OK


class _Signals:
    """SIGTERM and SIGINT: while the server starts they cancel the start, afterwards they end the wait."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._ended = asyncio.Event()
        self._starting: asyncio.Task[object] | None = None

    def __enter__(self) -> "_Signals":
        self._starting = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, self._receive, number)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda got, _: loop.call_soon_threadsafe(self._receive, got))
        return self

    def __exit__(self, *_: object) -> None:
        """The handlers stay: a second signal while draining must not kill the process half way."""

    def started(self) -> None:
        self._starting = None

    async def wait(self) -> None:
        await self._ended.wait()

    def _receive(self, number: int) -> None:
        self.received = self.received or number
        self._ended.set()
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None


def _failed(code: Exit, error: Exception) -> int:
    print(f"narthex server: {error}", file=sys.stderr, flush=True)
    return code


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where there is one: a fifth less CPU per call."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    return new_event_loop


if __name__ == "__main__":
    sys.exit(main())

"""`narthex bridge`: the process."""

import asyncio
import errno
import logging
import signal
import socket
import ssl
import sys
from collections.abc import Sequence
from typing import Any

from hypercorn.config import Config
from narthex import certificates
from narthex.settings import Address, SettingsError

from narthex_bridge.app import Bridge
from narthex_bridge.config import arguments as settings
from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.transport.host import serve

logger = logging.getLogger("narthex_bridge")

OK, INTERNAL, USAGE, PORT_IN_USE, INTERRUPTED = 0, 1, 2, 4, 130
DRAIN_MARGIN_S = 5.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the bridge until SIGTERM or SIGINT; returns the exit code."""
    try:
        config = settings.from_arguments(sys.argv[1:] if argv is None else argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else USAGE
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("narthex_bridge").setLevel(config.log_level.upper())
    try:
        listener = bind(config.http)
    except OSError as error:
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror
        print(f"narthex bridge: cannot listen on {config.http}: {reason}; choose another with --http", file=sys.stderr)
        return PORT_IN_USE if error.errno == errno.EADDRINUSE else USAGE
    with listener, asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            return runner.run(run(config, listener))
        except (SettingsError, OSError, ssl.SSLError) as error:
            print(f"narthex bridge: {error}", file=sys.stderr)
            return USAGE
        except KeyboardInterrupt:
            return INTERRUPTED


def bind(address: Address) -> socket.socket:
    """A bound, not yet listening socket. Raises OSError."""
    family, kind, protocol, _, target = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(target)
        listener.listen(4096)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


async def run(config: BridgeConfig, listener: socket.socket) -> int:
    """Serves on a bound socket until a signal; returns the exit code."""
    bridge = Bridge(config)
    stop, interrupted = asyncio.Event(), False

    def on_signal(number: int) -> None:
        nonlocal interrupted
        interrupted = number == signal.SIGINT
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, on_signal, number)
        except NotImplementedError:
            signal.signal(number, lambda received, _: loop.call_soon_threadsafe(on_signal, received))
    address = Address(*listener.getsockname()[:2])
    drained: list[asyncio.Task[None]] = []

    async def until_stopped() -> None:
        print(f"narthex-bridge ready http={address}", flush=True)
        url = f"{'https' if config.tls.cert else 'http'}://{address}"
        logger.info("MCP clients connect to %s/mcp; what else is here: %s/", url, url)
        await stop.wait()
        drained.append(asyncio.create_task(bridge.drain()))

    await serve(bridge.app, hypercorn_config(config, listener), shutdown_trigger=until_stopped)
    for task in drained:
        await task
    return INTERRUPTED if interrupted else OK


def hypercorn_config(config: BridgeConfig, listener: socket.socket) -> Config:
    """Hypercorn's settings; its defaults would drop bursts of connections and cut streams and busy connections."""
    server = Config()
    server.bind = [f"fd://{listener.detach()}"]  # hypercorn owns and closes it from here on
    server.backlog = 4096
    server.keep_alive_timeout = 75
    server.keep_alive_max_requests = 2**31
    server.h11_max_incomplete_size = server.h2_max_header_list_size = config.max_header_bytes
    server.h2_max_concurrent_streams = 1000
    server.graceful_timeout = server.shutdown_timeout = config.shutdown_grace + DRAIN_MARGIN_S
    server.include_server_header = False
    server.accesslog = None
    server.errorlog = logging.getLogger("hypercorn")
    if config.tls.cert and config.tls.key:
        certificates.check("tls", config.tls.cert, config.tls.key, config.tls.client_ca)
        server.certfile, server.keyfile = str(config.tls.cert), str(config.tls.key)
        if config.tls.client_ca:
            server.ca_certs, server.verify_mode = str(config.tls.client_ca), ssl.CERT_REQUIRED
    return server


def loop_factory() -> Any:
    """uvloop's where it is installed, else None."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())

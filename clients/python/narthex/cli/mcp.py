"""`narthex mcp`: MCP on standard input and output, in front of a server that runs or of one of its own."""

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from narthex.cli.environment import python_module, server_environment
from narthex.cli.exits import Exit
from narthex.cli.main import become, installed
from narthex.cli.serve import PASSED_ON
from narthex.cli.supervisor import Backoff, StartFailed, Supervised

GRACE = 15.0
TOKEN = "NARTHEX_DELEGATE_TOKEN"
ALONE = "--connections-single-tenant"

OWN = """\
With any of these a server is started for this client alone, and ends with it; every other flag of `narthex server` is
understood too. Without them a server has to run at --server.
"""


FURTHER = """\
beside --server:
  --server-key-file FILE, --server-tls-ca FILE, --server-tls-cert FILE, --server-tls-key FILE,
  --max-calls N, --max-body-bytes N, --call-timeout-s X, --shutdown-grace X, --log-level LEVEL
"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = FURTHER, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--server", metavar="HOST:PORT", help="the gRPC address of a server (default: 127.0.0.1:50051)")
    own = parser.add_argument_group("a server of its own", OWN)
    for flag, (metavar, help) in PASSED_ON.items():
        own.add_argument(flag, metavar=metavar, help=help, action="append")


def run(arguments: argparse.Namespace, rest: Sequence[str] = ()) -> int:
    """Serves until standard input ends; `rest` are further flags, of the server or of the bridge's side."""
    given = vars(arguments)
    passed = [part for flag in PASSED_ON for value in given[_dest(flag)] or () for part in (flag, value)]
    if not passed:
        address = ["--server", arguments.server] if arguments.server else []
        return become("bridge", [*address, *rest], "stdio")
    installed("bridge")
    with contextlib.redirect_stdout(sys.stderr):  # standard output belongs to the client
        return asyncio.run(_with_own_server([*passed, *rest]))


async def _with_own_server(passed: Sequence[str]) -> int:
    token = secrets.token_urlsafe(32)
    environ = os.environ | {TOKEN: token, "PYTHONUNBUFFERED": "1"}

    def command(known: Mapping[str, str]) -> Sequence[str]:
        free = "127.0.0.1:0"
        addresses = ["--grpc", known.get("grpc", free), "--metrics", known.get("metrics", free)]
        return python_module(f"{installed('server')}.main", *addresses, "--log-level", "warning", ALONE, *passed)

    server = Supervised("server", command, server_environment(environ))
    running = asyncio.create_task(server.run(Backoff()))
    either: list[asyncio.Future[Any]] = [running, server.ready]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        error = running.exception()
        print(f"narthex mcp: {error}", file=sys.stderr)
        return error.code if isinstance(error, StartFailed) else Exit.INTERNAL
    words = ["--server", server.ready.result()["grpc"]]
    client = await asyncio.create_subprocess_exec(
        *python_module("narthex_bridge.stdio", *words),
        stdout=sys.__stdout__,
        env=environ | {"NARTHEX_API_KEY": token},
    )
    if sys.platform != "win32":
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, _end, client)
    code = await client.wait()
    await server.stop(GRACE)
    running.cancel()
    return code


def _end(client: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        client.terminate()


def _dest(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")

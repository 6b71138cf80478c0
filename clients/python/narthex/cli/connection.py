"""Calling a server from a command: where it is, with which key, and how its errors are told."""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from narthex import certificates
from narthex.cli.exits import Exit
from narthex.client import Client
from narthex.errors import NarthexError
from narthex.settings import SettingsError


def add_connection_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        default=os.environ.get("NARTHEX_SERVER", "127.0.0.1:50051"),
        help="the server's gRPC address (default: %(default)s)",
    )
    parser.add_argument(
        "--api-key", metavar="KEY", default=os.environ.get("NARTHEX_API_KEY", ""), help="or NARTHEX_API_KEY"
    )
    parser.add_argument("--ca", type=Path, metavar="FILE", help="use TLS, trusting these authorities, PEM")
    parser.add_argument("--cert", type=Path, metavar="FILE", help="show this certificate chain to the server, PEM")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the certificate's private key, PEM")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", default=None, help="give up on a call after this")


def call(arguments: argparse.Namespace, work: Callable[[Client], Awaitable[int]]) -> int:
    """Runs `work` with a connected client; a failed call is told on stderr and exits with 1."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # failed calls are told once, by us
    return asyncio.run(_call(arguments, work))


async def _call(arguments: argparse.Namespace, work: Callable[[Client], Awaitable[int]]) -> int:
    try:
        async with Client(
            arguments.server, api_key=arguments.api_key, credentials=_credentials(arguments), timeout=arguments.timeout
        ) as client:
            return await work(client)
    except NarthexError as error:
        print(f"narthex: {error.message} ({error.reason})", file=sys.stderr)
        for violation in error.violations:
            print(f"  {violation.field}: {violation.description}", file=sys.stderr)
        if error.reason == "UNAVAILABLE":
            print(f"  is a server at {arguments.server}? `narthex serve` starts one", file=sys.stderr)
        if error.code is grpc.StatusCode.UNAUTHENTICATED:
            print("  give a key with --api-key or NARTHEX_API_KEY", file=sys.stderr)
        return Exit.INTERNAL


def _credentials(arguments: argparse.Namespace) -> grpc.ChannelCredentials | None:
    """TLS as the flags say, or None for plain text; raises SettingsError."""
    ca, cert, key = arguments.ca, arguments.cert, arguments.key
    if bool(cert) != bool(key) or (cert and not ca):
        raise SettingsError("--cert and --key belong together, and need --ca")
    if not ca:
        return None
    certificates.check("TLS", cert, key, ca)
    return grpc.ssl_channel_credentials(ca.read_bytes(), *(file.read_bytes() for file in (key, cert) if file))

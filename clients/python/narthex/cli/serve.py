"""`narthex serve`: a server and a bridge on this machine, as two supervised processes."""

import argparse
import asyncio
import contextlib
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from narthex.cli.environment import python_module, server_environment
from narthex.cli.exits import Exit
from narthex.cli.supervisor import Supervised, supervise
from narthex.settings import SECTIONS, Address, add_flags, config_file, load, option

MARGIN = 5.0
"""Seconds that a process gets on top of its grace to close what it holds."""

# What serve itself needs to know of the two processes' settings; each process parses its own section in full.


@dataclass(frozen=True, slots=True)
class ServerSide:
    grpc: Address = option(Address("127.0.0.1", 50051), "where gRPC listens; port 0 takes a free one")
    metrics: Address = option(Address("127.0.0.1", 9464), "where the server's /metrics listens")
    api_key_file: Path | None = option(None, "accept only these keys, on gRPC and on HTTP")


@dataclass(frozen=True, slots=True)
class BridgeSide:
    http: Address = option(Address("127.0.0.1", 4321), "where HTTP and MCP listen; port 0 takes a free one")
    allow_anyone: bool = option(False, "let --http be beyond this machine though anyone could call")


@dataclass(frozen=True, slots=True)
class Oauth:
    issuers: tuple[str, ...] = option((), "authorization servers whose access tokens are taken")


@dataclass(frozen=True, slots=True)
class Callers:
    """By what the bridge can tell its callers apart."""

    api_key_file: Path | None = option(None, "accept only these keys")
    oauth: Oauth = Oauth()

    @property
    def are_one(self) -> bool:
        return self.api_key_file is None and not self.oauth.issuers


@dataclass(frozen=True, slots=True)
class EitherSide:
    """In the section of each of the two; one flag for both."""

    shutdown_grace: float = option(10.0, "seconds running calls have to finish after SIGTERM", minimum=0)


PASSED_ON = {  # flags of the server that are shown here too; every other flag of the server is passed on as well
    "--model": ("NAME=PATH", "a model folder, .gguf or .onnx file, or openai+URL for a remote one; repeatable"),
    "--model-key-file": ("MODEL=FILE", "a file with the API key for a remote model; repeatable"),
    "--model-key-variable": ("MODEL=VARIABLE", "the environment variable with that key instead; repeatable"),
    "--model-root": ("DIR", "the folder below which callers may name models to load"),
    "--default-model": ("NAME", "the model that an empty name means, where several are served"),
    "--idle-unload": (
        "SECONDS",
        "after so long without requests a model leaves the memory, until the next; 0 is never",
    ),
    "--mcp-config": ("FILE", "the MCP servers to forward: an mcp-config.json"),
    "--threads": ("N", "threads of the engine; 0 takes all cores that the process may use"),
    "--max-slots": ("N", "sequences that decode together, per model"),
    "--max-context": ("N", "tokens of prompt and answer per sequence, at most"),
    "--quantize": ("KIND", "quantise the weights of a folder as they are loaded: q8_0, q6_k, q5_k, q4_k, q4_0, …"),
    "--topology": ("FILE", "other formats for some layers or tensors: a YAML file"),
    "--compute": (
        "KIND",
        "auto, float32 (exact), block8 (int8 activations on quantised weights) or int8 (faster, lossy)",
    ),
    "--kv-cache": ("KIND", "float32, or int8 for a quarter of the memory"),
    "--tokenizer": ("MODEL=DIR", "a folder whose tokenizer and template a model uses instead of its own; repeatable"),
    "--adapter": ("[MODEL/]NAME=DIR", "a LoRA folder to load on a model, the only one if none is named; repeatable"),
    "--max-adapters": ("N", "adapters per model; 0 loads models without room for any"),
    "--adapter-root": ("DIR", "the folder below which callers may name adapters to load"),
    "--xlora": ("MODEL=DIR", "an X-LoRA folder on top of a model; repeatable"),
}

TO_BRIDGE = {  # flags of the bridge that are passed on; the others are in its section of the file
    "--allowed-origins": ("URL", "further browser origins, such as https://app.example; repeatable"),
    "--allowed-hosts": ("NAME", "further Host names that may be used; repeatable"),
    "--trusted-proxies": ("NETWORK", "addresses or networks whose X-Forwarded-For is believed; repeatable"),
    "--redis": ("URL", "the Redis that several bridges share"),
    "--events-store": ("KIND", "where MCP sessions and events are kept: memory, sqlite or redis"),
    "--events-path": ("FILE", "the file of sqlite"),
    "--oauth-issuers": ("URL", "authorization servers whose access tokens are taken on HTTP; repeatable"),
    "--oauth-resource": ("URL", "the public URL of /mcp"),
    "--oauth-audiences": ("TEXT", "what tokens must be meant for; by default the resource; repeatable"),
    "--oauth-scopes": ("SCOPE", "scopes that every token needs; repeatable"),
    "--limits-total": ("N/UNIT", "HTTP requests of all clients together"),
    "--limits-address": ("N/UNIT", "HTTP requests per client address"),
    "--limits-principal": ("N/UNIT", "HTTP requests per key or token subject"),
}

TO_BOTH = {  # flags that server and bridge have alike
    "--otel-endpoint": ("URL", "where both send traces, such as http://127.0.0.1:4317"),
    "--otel-sample-ratio": ("SHARE", "of the traces begun here, how many are kept: 0 to 1"),
}


ELSEWHERE = "options of the bridge that are not here belong into [bridge] of a narthex.toml, or NARTHEX_* variables"


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"Every other option of `narthex server` is understood too; {ELSEWHERE}."
    parser.add_argument("--config", type=Path, metavar="FILE", help="a narthex.toml (or NARTHEX_CONFIG)")
    add_flags(parser, ServerSide)
    add_flags(parser, BridgeSide)
    add_flags(parser, EitherSide)
    parser.add_argument("--mcp-http-port", "--http-mcp-port", type=int, metavar="N", help="the port of --http alone")
    for flag, (metavar, help) in (PASSED_ON | TO_BRIDGE | TO_BOTH).items():
        parser.add_argument(flag, metavar=metavar, help=help, action="append")


def run(arguments: argparse.Namespace, rest: Sequence[str] = ()) -> int:
    """Serves until a signal; `rest` are flags of the server that serve does not know."""
    flags, file = vars(arguments), config_file(arguments.config)
    server = load(ServerSide, "server", flags, file=file, partial=True)
    bridge = load(BridgeSide, "bridge", flags, file=file, partial=True)
    if arguments.mcp_http_port is not None:
        bridge = replace(bridge, http=Address.parse(f"{bridge.http.host}:{arguments.mcp_http_port}"))
    for flag, address in (("--grpc", server.grpc), ("--http", bridge.http), ("--metrics", server.metrics)):
        if problem := port_problem(address):
            print(f"narthex serve: {flag} {address}: {problem}; choose another with {flag}", file=sys.stderr)
            return Exit.PORT
    passed, to_bridge, to_both = (
        [part for flag in known for value in flags[_dest(flag)] or () for part in (flag, value)]
        for known in (PASSED_ON, TO_BRIDGE, TO_BOTH)
    )
    to_bridge += ["--allow-anyone"] if bridge.allow_anyone else []
    callers = load(Callers, "bridge", flags, file=file, partial=True)
    alone = ["--connections-single-tenant"] if callers.are_one and server.api_key_file is None else []
    given = arguments.shutdown_grace
    grace = max(load(EitherSide, section, flags, file=file, partial=True).shutdown_grace for section in SECTIONS)
    common = ["--config", str(file)] if file else []
    common += to_both
    common += ["--shutdown-grace", str(given)] if given is not None else []
    code = asyncio.run(_serve(server, bridge, common, [*alone, *passed, *rest], to_bridge, grace + MARGIN))
    if code == Exit.USAGE and rest:
        print(f"narthex serve: {' '.join(rest)} went to the server; {ELSEWHERE}", file=sys.stderr)
    return code


async def _serve(
    server: ServerSide,
    bridge: BridgeSide,
    common: Sequence[str],
    passed: Sequence[str],
    to_bridge: Sequence[str],
    grace: float,
) -> int:
    """Runs both with the flags `common`, and each with its own; they have `grace` seconds to end in."""
    environ = os.environ | {"NARTHEX_DELEGATE_TOKEN": secrets.token_urlsafe(32), "PYTHONUNBUFFERED": "1"}
    if server.api_key_file:
        common = [*common, "--api-key-file", str(server.api_key_file)]

    def server_command(known: Mapping[str, str]) -> Sequence[str]:
        addresses = [
            "--grpc",
            known.get("grpc", str(server.grpc)),
            "--metrics",
            known.get("metrics", str(server.metrics)),
        ]
        return python_module("narthex_server.main", *addresses, *common, *passed)

    first = Supervised("server", server_command, server_environment(environ))

    def bridge_command(known: Mapping[str, str]) -> Sequence[str]:
        grpc = first.ready.result()["grpc"] if first.ready.done() else str(server.grpc)
        addresses = ["--http", known.get("http", str(bridge.http)), "--server", reachable(Address.parse(grpc))]
        return python_module("narthex_bridge.main", *addresses, *common, *to_bridge)

    # A bridge needs the server's address, nothing else of it: with a fixed port both start at once.
    second = Supervised("bridge", bridge_command, environ, after=None if server.grpc.port else first)

    def ready_line() -> str:
        fields = {**first.ready.result(), **second.ready.result()}
        return "narthex ready " + " ".join(
            f"{name}={fields.get(name, '')}" for name in ("grpc", "http", "metrics", "models", "tools")
        )

    return await supervise([first, second], ready_line, grace=grace)


def reachable(address: Address) -> str:
    """The address to dial for a server that listens on `address`: a wildcard is reached over loopback."""
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return str(replace(address, host=wildcard.get(address.host, address.host)))


def port_problem(address: Address) -> str:
    """Why nothing can listen on `address`, or an empty text."""
    if not address.port:
        return ""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return f"the host is not known: {error.strerror}"
    family, kind, protocol, _, target = found[0]
    with contextlib.closing(socket.socket(family, kind, protocol)) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind(target)
            probe.listen(1)
        except OSError as error:
            return f"the port cannot be used: {(error.strerror or 'in use').lower()}"
    return ""


def _dest(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")

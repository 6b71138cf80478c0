"""`narthex upstreams list`, `add`, `remove` and `reconnect`."""

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from google.protobuf.json_format import MessageToDict

from narthex.cli.connection import add_connection_flags, call
from narthex.cli.exits import Exit
from narthex.client import Client
from narthex.settings import SettingsError
from narthex.v1 import upstream_pb2 as wire

TRANSPORTS = ("http", "sse")
LIMITS = {
    "memory_mb": "of memory of its processes together, in MB",
    "cpu_secs": "of CPU time of each of its processes, in seconds",
    "open_files": "of open files of each",
    "processes": "of its processes",
    "file_mb": "of a file that it writes, in MB",
}
SANDBOXES = {
    "off": wire.SANDBOX_MODE_OFF,
    "auto": wire.SANDBOX_MODE_AUTO,
    "on": wire.SANDBOX_MODE_ON,
}


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="one line per upstream, healthy or not")
    adding = actions.add_parser(
        "add",
        help="add one until the server ends",
        usage="narthex upstreams add NAME [options] (URL | -- COMMAND [ARGUMENT ...])",
    )
    adding.add_argument("name", help="the prefix of its tools")
    adding.add_argument("target", nargs="+", metavar="URL | -- COMMAND", help="where it is, or what runs it")
    adding.add_argument("--type", choices=TRANSPORTS, help="of a URL (default: http)")
    adding.add_argument(
        "--header", action="append", default=[], metavar="NAME: VALUE", help="sent with every request; repeatable"
    )
    adding.add_argument(
        "--bearer-variable", metavar="VARIABLE", help="the environment variable with its token, here and not there"
    )
    adding.add_argument(
        "--env", action="append", default=[], metavar="NAME[=VALUE]",
        help="a variable of the process, with the value it has here if none is given; repeatable",
    )  # fmt: skip
    adding.add_argument("--cwd", default="", metavar="DIR", help="the folder that the process runs in")
    adding.add_argument(
        "--env-allow", action="append", default=[], metavar="PATTERN",
        help="variables of the server's own that it has too, instead of a few; repeatable",
    )  # fmt: skip
    for limit, text in LIMITS.items():
        adding.add_argument(_flag(limit), type=_count, default=0, metavar="N", help=f"limit {text}")
    adding.add_argument("--sandbox", choices=SANDBOXES, help="run the process in bubblewrap on the server's machine")
    adding.add_argument(
        "--writable", action="append", default=[], metavar="PATH", help="what it may write to there; repeatable"
    )
    adding.add_argument("--network", action="store_true", help="it has the network there")
    adding.add_argument("--call-timeout", type=float, metavar="SECONDS", help="how long one call may take")
    adding.add_argument("--no-breaker", action="store_true", help="try every call, whatever became of those before")
    adding.add_argument("--no-health", action="store_true", help="do not ask now and then whether it answers")
    removing = actions.add_parser("remove", help="remove one, once its running calls have ended")
    reconnecting = actions.add_parser("reconnect", help="connect one anew, now")
    for action in (removing, reconnecting):
        action.add_argument("name")
    for action in (listing, adding, removing, reconnecting):
        add_connection_flags(action)
        action.add_argument("--json", action="store_true", help="print JSON, all fields of the contract")


def run(arguments: argparse.Namespace) -> int:
    spec = spec_from(arguments) if arguments.action == "add" else None
    return call(arguments, lambda client: _run(client, arguments, spec))


async def _run(client: Client, arguments: argparse.Namespace, spec: wire.UpstreamSpec | None) -> int:
    shown: list[wire.Upstream] = []
    match arguments.action:
        case "list":
            shown = await client.list_upstreams()
        case "add":
            assert spec is not None
            shown = [await client.add_upstream(spec)]
        case "remove":
            await client.remove_upstream(arguments.name)
        case "reconnect":
            shown = [await client.reconnect_upstream(arguments.name)]
    if arguments.json:
        print(json.dumps([MessageToDict(one, preserving_proto_field_name=True) for one in shown], indent=2))
    else:
        for one in shown:
            print(_line(one))
    return Exit.OK


def spec_from(arguments: argparse.Namespace) -> wire.UpstreamSpec:
    """What `add` sends; raises SettingsError, also for an option that the target has no use for."""
    spec = wire.UpstreamSpec(name=arguments.name)
    first, *rest = arguments.target
    if first.startswith(("http://", "https://")) and not rest:
        of_a_process = ("env", "cwd", "env_allow", *LIMITS, "sandbox", "writable", "network")
        _check_unused({_flag(name): getattr(arguments, name) for name in of_a_process}, "a process")
        spec.http.url = first
        spec.http.sse = arguments.type == "sse"
        spec.http.headers.update(_pairs(arguments.header, ":", "--header"))
        if arguments.bearer_variable:
            spec.http.bearer_token = _variable(arguments.bearer_variable, "--bearer-variable")
    else:
        of_a_url = {
            "--type": arguments.type,
            "--header": arguments.header,
            "--bearer-variable": arguments.bearer_variable,
        }
        _check_unused(of_a_url, "a URL")
        spec.process.command = first
        spec.process.arguments.extend(rest)
        spec.process.working_directory = arguments.cwd
        given = [one if "=" in one else f"{one}={_variable(one, '--env')}" for one in arguments.env]
        spec.process.environment.update(_pairs(given, "=", "--env"))
        spec.process.environment_allow.extend(arguments.env_allow)
        limits = {limit: value for limit in LIMITS if (value := getattr(arguments, limit))}
        if limits:
            spec.process.limits.CopyFrom(wire.ProcessLimits(**limits))
        _sandbox(spec.process, arguments)
    if arguments.call_timeout is not None:
        spec.call_timeout.FromTimedelta(timedelta(seconds=arguments.call_timeout))
    spec.breaker.disabled = arguments.no_breaker
    spec.health.disabled = arguments.no_health
    return spec


def _sandbox(process: wire.ProcessSource, arguments: argparse.Namespace) -> None:
    if arguments.sandbox:
        process.sandbox.mode = SANDBOXES[arguments.sandbox]
    if arguments.writable or arguments.network:
        process.sandbox.writable.extend(arguments.writable)
        process.sandbox.network = arguments.network


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 32:
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return int(text)


def _check_unused(given: Mapping[str, object], kind: str) -> None:
    for flag, value in given.items():
        if value:
            raise SettingsError(f"{flag}: is for {kind}")


def _pairs(given: Sequence[str], between: str, flag: str) -> Iterable[tuple[str, str]]:
    for one in given:
        name, found, value = one.partition(between)
        if not found or not name.strip():
            raise SettingsError(f"{flag}: must be NAME{between}VALUE")  # without the value, which may be a secret
        yield name.strip(), value.strip() if between == ":" else value


def _variable(name: str, flag: str) -> str:
    if (value := os.environ.get(name)) is None:
        raise SettingsError(f"{flag}: the environment variable {name} is not set")
    return value


def _line(one: wire.Upstream) -> str:
    state = wire.UpstreamState.Name(one.state).removeprefix("UPSTREAM_STATE_").lower()
    breaker = wire.BreakerState.Name(one.breaker).removeprefix("BREAKER_STATE_").lower().replace("_", "-")
    server = f"{one.server_name} {one.server_version}".strip()
    columns = [
        one.name,
        state,
        one.transport,
        f"{one.tools} tools",
        f"breaker {breaker}" if one.breaker > wire.BREAKER_STATE_CLOSED else "",
        server,
        f"MCP {one.protocol_version}" if one.protocol_version else "",
        f"{one.failures} failures" if one.failures else "",
        one.failure,
    ]
    return "\t".join(filter(None, columns))

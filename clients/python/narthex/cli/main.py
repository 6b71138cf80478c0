"""The command line of narthex. It starts processes and calls servers; it imports neither server nor bridge."""

import argparse
import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence

from narthex.cli.environment import python_module, server_environment
from narthex.cli.exits import Exit
from narthex.settings import SettingsError

PROCESSES = {"server": "narthex_server", "bridge": "narthex_bridge"}  # also the extras that install them

COMMANDS = {  # each is a module here with `add(parser)` and `run(arguments) -> exit code`
    "serve": "serve models and tools on this machine: a server and a bridge, supervised",
    "mcp": "speak MCP on standard input and output, for clients that start a program",
    "chat": "talk to a served model in the terminal",
    "tools": "list the tools of a server, or call one",
    "upstreams": "list the MCP servers behind a server, add, remove or reconnect one",
    "lot": "look at what waits, and change how much is worked on at once",
    "models": "list the models of a server, load or unload one",
    "adapters": "list the adapters of a server, load or unload one",
    "quantize": "write a model folder with quantised weights",
    "doctor": "look at this machine and say what to do",
    "config": "check a narthex.toml",
    "keys": "make API keys",
    "policy": "check a policy of tool calls, and say what it does with a call",
    "audit": "look at the record of calls, and whether it is whole",
}

EPILOG = """\
server and bridge, one process each: `narthex server --help`, `narthex bridge --help`

exit codes: 0 ok, 1 internal error, 2 usage or configuration, 3 a model cannot be loaded, 4 a port is in use,
5 a policy does not allow what `policy explain` was asked about, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words and words[0] in PROCESSES:
            return become(words[0], words[1:])
        return _command(words)
    except SettingsError as error:
        return _failed(error)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def become(name: str, words: Sequence[str], module: str = "main") -> int:
    """Runs a program of the server or the bridge in the place of this process (as a child where the system cannot)."""
    command = python_module(f"{installed(name)}.{module}", *words)
    if sys.platform == "win32":
        return subprocess.run(command).returncode
    os.execve(sys.executable, command, server_environment(os.environ))


def installed(name: str) -> str:
    """The package of a process; raises SettingsError where it, or what it needs, was left out of the installation."""
    package, needs = PROCESSES[name], {"server": "grpc_interceptor", "bridge": "quart"}[name]
    if importlib.util.find_spec(package) is None or importlib.util.find_spec(needs) is None:
        raise SettingsError(f"the {name} is not installed; try: pip install 'narthex[{name}]'")
    return package


def _command(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="narthex",
        description="One endpoint for models and MCP tools.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    chosen = words[0] if words else ""
    for name, help in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".", allow_abbrev=False)
        if name == chosen:  # the others' modules stay unread: `serve` should start fast
            importlib.import_module(f"narthex.cli.{name}").add(command)
    for name in PROCESSES:
        commands.add_parser(name, help=f"run one {name} process")
    arguments, rest = parser.parse_known_args(words)
    if arguments.version:
        from importlib.metadata import version

        print(version("narthex"))
        return Exit.OK
    if not arguments.command:
        parser.print_help()
        return Exit.USAGE
    module = importlib.import_module(f"narthex.cli.{arguments.command}")
    if arguments.command in ("serve", "mcp"):
        return int(module.run(arguments, rest))
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return int(module.run(arguments))


def _failed(error: Exception) -> int:
    print(f"narthex: {error}", file=sys.stderr)
    return Exit.USAGE


if __name__ == "__main__":
    sys.exit(main())

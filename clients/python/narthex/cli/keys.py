"""`narthex keys new`."""

import argparse
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from narthex.cli.exits import Exit
from narthex.keys import append_key, expiry, new_key, tool_scope
from narthex.rates import Rate
from narthex.settings import SettingsError


def _name(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


def _end(text: str) -> datetime:
    if (end := expiry(text)) <= datetime.now(UTC):
        raise ValueError("is past")
    return end


_READERS: Mapping[str, Callable[[Any], object]] = {
    "name": _name,
    "tenant": _name,
    "tools": tool_scope,
    "rate": Rate.parse,
    "expires": _end,
}


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="make a key: the secret goes to stdout, its hash into the key file")
    new.add_argument("--name", required=True, help="who will hold it")
    new.add_argument("--tenant", default="default", help="whose work it does (default: %(default)s)")
    new.add_argument("--delegate", action="store_true", help="it may speak for other callers, as a bridge does")
    new.add_argument("--admin", action="store_true", help="it may add, remove and reconnect upstreams")
    new.add_argument(
        "--tools", action="append", metavar="GLOB", help="a tool it may use, such as time__now or 'time__*'; repeatable"
    )
    new.add_argument("--rate", metavar="N/UNIT", help="requests it may send over HTTP, such as 100/minute, or off")
    new.add_argument("--expires", metavar="WHEN", help="until when: 30d, 12h, a date, or a time with its zone")
    new.add_argument("--file", type=Path, help="the key file to add it to; without it the entry is printed on stderr")


def run(arguments: argparse.Namespace) -> int:
    given: dict[str, Any] = {"delegate": arguments.delegate, "admin": arguments.admin}
    for flag, read in _READERS.items():
        if (value := getattr(arguments, flag)) is not None:
            try:
                given[flag] = read(value)
            except ValueError as error:
                raise SettingsError(f"--{flag}: {value!r} {error}") from None
    secret, key = new_key(**given)
    if arguments.file:
        append_key(arguments.file, key)
        print(f"added to {arguments.file}; the secret below is shown only now", file=sys.stderr)
    else:
        print(f"put this into the key file:\n\n{key.toml}\nthe secret below is shown only now", file=sys.stderr)
    print(secret)
    return Exit.OK

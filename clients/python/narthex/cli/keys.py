"""`narthex keys new`."""

import argparse
import sys
from pathlib import Path

from narthex.cli.exits import Exit
from narthex.keys import append_key, new_key


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    new = actions.add_parser("new", help="make a key: the secret goes to stdout, its hash into the key file")
    new.add_argument("--name", required=True, help="who will hold it")
    new.add_argument("--tenant", default="default", help="whose work it does (default: %(default)s)")
    new.add_argument("--delegate", action="store_true", help="it may speak for other callers, as a bridge does")
    new.add_argument("--file", type=Path, help="the key file to add it to; without it the entry is printed on stderr")


def run(arguments: argparse.Namespace) -> int:
    secret, key = new_key(arguments.name, arguments.tenant, delegate=arguments.delegate)
    if arguments.file:
        append_key(arguments.file, key)
        print(f"added to {arguments.file}; the secret below is shown only now", file=sys.stderr)
    else:
        print(f"put this into the key file:\n\n{key.toml}\nthe secret below is shown only now", file=sys.stderr)
    print(secret)
    return Exit.OK

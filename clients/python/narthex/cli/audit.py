"""`narthex audit`: runs the server package's program of that name, which knows the record."""

import argparse

from narthex.cli.main import become


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="ACTION ...", help="verify, anchor, show or export")


def run(arguments: argparse.Namespace) -> int:
    return become("server", arguments.words, module="audit.main")

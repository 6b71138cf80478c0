"""`narthex config check`: every process reads its own section and says what it would do."""

import argparse
import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from narthex.cli.environment import python_module
from narthex.cli.exits import Exit
from narthex.cli.main import installed
from narthex.settings import SECTIONS, config_file, flattened, missing, parse, read_section

TREES = {"server": "ServerConfig", "bridge": "BridgeConfig"}


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="exit code 0 and every effective setting, or 2 and what is wrong")
    check.add_argument("--config", type=Path, metavar="FILE", help="a narthex.toml (or NARTHEX_CONFIG)")


def run(arguments: argparse.Namespace) -> int:
    file = config_file(arguments.config)
    if file:
        read_section(file, SECTIONS[0])  # the file as a whole
    flags = ["--config", str(file)] if file else []
    codes = [subprocess.run(python_module(__name__, section, *flags)).returncode for section in SECTIONS]
    return Exit.OK if not any(codes) else Exit.USAGE


def show(section: str, argv: Sequence[str]) -> int:
    """Prints the effective settings of one process; only this child of the check imports its configuration."""
    tree = getattr(importlib.import_module(f"{installed(section)}.config"), TREES[section])
    filled = parse(tree, section, argv, prog=f"narthex {section}", description="")
    for key, value in flattened(filled):
        print(f"{section}.{key} = {value}")
    absent = list(missing(filled))
    for key, path in absent:
        print(f"narthex {section}: {section}.{key}: there is nothing at {path}", file=sys.stderr)
    return Exit.USAGE if absent else Exit.OK


if __name__ == "__main__":
    sys.exit(show(sys.argv[1], sys.argv[2:]))

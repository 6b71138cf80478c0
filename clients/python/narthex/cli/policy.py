"""`narthex policy check`: runs the server package's program, which knows rules."""

import argparse

from narthex.cli.main import become

_OPTIONS = (
    ("--tool", "NAME", "a tool's name as callers use it"),
    ("--prompt", "NAME", "a prompt's name as callers use it"),
    ("--resource", "URI", "a resource's URI"),
    ("--as", "KEY", "the caller's key (default: local, who has none)"),
    ("--tenant", "TENANT", "the caller's tenant (default: default)"),
    ("--server", "NAME", "its upstream, where the name does not say so"),
    ("--annotations", "JSON", "what the upstream says of the tool"),
    ("--arguments", "JSON", "of the call"),
    ("--working-directory", "DIR", "where the upstream's process runs"),
)


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="exit code 0 if a policy can be used or, with a call, allows it; 1 if it does not, 2 if it is broken",
    )
    check.add_argument("file", metavar="FILE", help="the policy")
    for flag, metavar, help in _OPTIONS:
        check.add_argument(flag, dest=flag, metavar=metavar, help=help)


def run(arguments: argparse.Namespace) -> int:
    given = {flag: value for flag, _, _ in _OPTIONS if (value := getattr(arguments, flag)) is not None}
    words = [f"{flag}={value}" for flag, value in given.items()]
    return become("server", [*words, "--", arguments.file], module="policy_check")

"""`narthex policy`: runs the server package's program of that name, which knows rules."""

import argparse

from narthex.cli.main import become

_OPTIONS = (
    ("--tool", "NAME", "a tool's name as callers use it"),
    ("--prompt", "NAME", "a prompt's name as callers use it"),
    ("--resource", "URI", "a resource's URI, as its upstream gives it"),
    ("--as", "KEY", "the caller's key (default: local, who has none)"),
    ("--tenant", "TENANT", "the caller's tenant (default: default)"),
    ("--server", "NAME", "the upstream, where the name does not begin with NAME__"),
    ("--arguments", "JSON", "of the call (default: {})"),
    ("--annotations", "JSON", "what the upstream says of the tool (default: {})"),
    ("--working-directory", "DIR", "where the upstream's process runs, for relative paths"),
)


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    helps = {
        "check": "whether a policy can be used: exit code 0, or 2 and what is wrong",
        "explain": "which rule decides a call, and why: exit code 0 where it is allowed, else 5",
    }
    for action, help in helps.items():
        added = actions.add_parser(action, help=help, allow_abbrev=False)
        added.add_argument("file", metavar="FILE", help="the policy")
        if action == "explain":
            for flag, metavar, what in _OPTIONS:
                added.add_argument(flag, dest=flag, metavar=metavar, help=what)


def run(arguments: argparse.Namespace) -> int:
    given = {flag: value for flag, _, _ in _OPTIONS if (value := getattr(arguments, flag, None)) is not None}
    words = [f"{flag}={value}" for flag, value in given.items()]
    return become("server", [arguments.action, *words, "--", arguments.file], module="policy")

"""`narthex policy check`: whether a policy can be used, and which of its rules decides a call and why."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from narthex.cli.exits import Exit
from narthex.settings import SettingsError

from narthex_server.errors import InvalidRequest
from narthex_server.principal import LOCAL, Principal
from narthex_server.tools.arguments import parse_arguments
from narthex_server.tools.policy.document import read_policy
from narthex_server.tools.policy.policy import DEFAULT, Policy
from narthex_server.tools.policy.rule import Rule
from narthex_server.tools.policy.subject import Kind, Subject

UNDECIDED = 1
"""The exit code of a call that would not be allowed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Says what is asked on stdout; returns the exit code: 0 allowed or, without a call, usable; 1 not allowed."""
    arguments = _parser().parse_args(argv)
    try:
        policy = read_policy(arguments.file.read_bytes(), arguments.file)
        subject = _subject(arguments)
        given = parse_arguments(arguments.arguments.encode())
    except OSError as error:
        return _failed(SettingsError(f"{arguments.file}: cannot be read: {error.strerror}"))
    except SettingsError as error:
        return _failed(error)
    except InvalidRequest as error:
        return _failed(SettingsError(f"--arguments: {error.message}"))
    if subject is None:
        print(f"{arguments.file}: {len(policy.rules)} rules")
        return Exit.OK
    principal = Principal(arguments.key, arguments.tenant)
    for line in explained(policy, principal, subject, given, arguments.working_directory):
        print(line)
    rule = policy.plan(principal, subject).decide(given, arguments.working_directory)
    return Exit.OK if rule.effect == "allow" else UNDECIDED


def explained(
    policy: Policy, principal: Principal, subject: Subject, arguments: dict[str, Any], directory: str
) -> Iterator[str]:
    """A line for each rule up to the one that decides, and what follows."""
    plan = policy.plan(principal, subject)
    decisive = plan.decide(arguments, directory)
    for rule in policy.rules:
        if rule is decisive:
            break
        yield f"- {rule.name}: does not fit: {_misfit(rule, principal, subject, arguments, directory)}"
    if decisive is DEFAULT:
        yield "= deny: no rule fits"
    else:
        yield f"= {decisive.effect}: rule {decisive.name!r}" + (f": {decisive.message}" if decisive.message else "")
    if not plan.visible:
        yield "  not listed for this caller, and answered as if it were not there"


def _misfit(rule: Rule, principal: Principal, subject: Subject, arguments: dict[str, Any], directory: str) -> str:
    for name, test in rule.tests:
        if not test(principal, subject):
            return name
    return next(name for name, condition in rule.conditions if not condition.holds(arguments, directory))


def _subject(arguments: argparse.Namespace) -> Subject | None:
    names: dict[Kind, str] = {
        "tools": arguments.tool, "prompts": arguments.prompt, "resources": arguments.resource,
    }  # fmt: skip
    kind = next((kind for kind in names if names[kind]), None)
    if kind is None:
        return None
    name = names[kind]
    server, separator, own_name = name.partition("__")
    if arguments.server is not None:
        server, own_name = arguments.server, name.removeprefix(f"{arguments.server}__")
    elif not separator or kind == "resources":
        server, own_name = "", ""
    try:
        annotations = json.loads(arguments.annotations)
    except ValueError as error:
        raise SettingsError(f"--annotations: not JSON: {error}") from error
    return Subject(kind, name, server, own_name, json.dumps(annotations).encode())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="narthex policy check",
        description="Say whether a policy can be used and, for a call, which rule decides and why.",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the policy")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--tool", default="", metavar="NAME", help="a tool's name as callers use it")
    asked.add_argument("--prompt", default="", metavar="NAME", help="a prompt's name as callers use it")
    asked.add_argument("--resource", default="", metavar="URI", help="a resource's URI")
    parser.add_argument("--as", dest="key", default=LOCAL.name, metavar="KEY", help="the caller's key (default: local)")
    parser.add_argument("--tenant", default=LOCAL.tenant, help="the caller's tenant (default: %(default)s)")
    parser.add_argument("--server", metavar="NAME", help="its upstream, where the name does not say so")
    parser.add_argument("--annotations", default="{}", metavar="JSON", help="what the upstream says of the tool")
    parser.add_argument("--arguments", default="{}", metavar="JSON", help="of the call (default: none)")
    parser.add_argument("--working-directory", default="", metavar="DIR", help="where the upstream's process runs")
    return parser


def _failed(error: SettingsError) -> int:
    print(f"narthex policy check: {error}", file=sys.stderr)
    return Exit.USAGE


if __name__ == "__main__":
    sys.exit(main())

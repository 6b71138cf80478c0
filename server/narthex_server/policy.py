"""`narthex policy`: whether a policy can be used, and which of its rules decides a call and why."""

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
from narthex_server.tools.policy.rule import Limits, Rule
from narthex_server.tools.policy.subject import Kind, Subject


def main(argv: Sequence[str] | None = None) -> int:
    """Says on stdout what is asked; returns the exit code, REFUSED for a call that is not simply allowed."""
    arguments = _parser().parse_args(argv)
    try:
        policy = read_policy(arguments.file.read_bytes(), arguments.file)
        if arguments.action == "check":
            return _check(policy, arguments.file)
        return _explain(policy, arguments)
    except OSError as error:
        told = f"{arguments.file}: cannot be read: {error.strerror}"
    except SettingsError as error:
        told = str(error)
    except InvalidRequest as error:
        told = f"--arguments: {error.message}"
    print(f"narthex policy: {told}", file=sys.stderr)
    return Exit.USAGE


def explained(
    policy: Policy, principal: Principal, subject: Subject, arguments: dict[str, Any], directory: str
) -> tuple[Rule, list[str]]:
    """The rule that decides, and lines that say what follows from it and why none above it decides."""
    plan = policy.plan(principal, subject)
    decisive = plan.decide(arguments, directory)
    lines = ["deny: no rule fits" if decisive is DEFAULT else f"{decisive.effect}: rule {decisive.name!r}"]
    if decisive.message:
        lines.append(f"  message: {decisive.message}")
    lines += [f"  {limit}" for limit in _limits(decisive.limits)]
    if not plan.visible:
        lines.append("  not listed for this caller, and answered as if it were not there")
    for rule in policy.rules:
        if rule is decisive:
            break
        lines.append(f"  rule {rule.name!r} does not fit: {_misfit(rule, principal, subject, arguments, directory)}")
    return decisive, lines


def _check(policy: Policy, file: Path) -> int:
    print(f"{file}: {len(policy.rules)} rules; what none of them fits is denied")
    for rule in policy.rules:
        print(f"  {rule.effect}: {rule.name}")
    return Exit.OK


def _explain(policy: Policy, arguments: argparse.Namespace) -> int:
    principal = Principal(arguments.key, arguments.tenant)
    given = parse_arguments(arguments.arguments.encode())
    decisive, lines = explained(policy, principal, _subject(arguments), given, arguments.working_directory)
    print("\n".join(lines))
    return Exit.OK if decisive.effect == "allow" else Exit.REFUSED


def _misfit(rule: Rule, principal: Principal, subject: Subject, arguments: dict[str, Any], directory: str) -> str:
    for name, test in rule.tests:
        if not test(principal, subject):
            return name
    name, condition = next(pair for pair in rule.conditions if not pair[1].holds(arguments, directory))
    return f"{name} {'cannot be told' if condition.is_unclear(arguments, directory) else 'does not hold'}"


def _limits(limits: Limits) -> Iterator[str]:
    whose = {"key": "each key", "tenant": "each tenant", "all": "all callers together"}[limits.per]
    if limits.rate.count:
        yield f"rate: {limits.rate} for {whose}"
    if limits.concurrency:
        yield f"concurrency: {limits.concurrency} at once for {whose}"
    if limits.timeout is not None:
        yield f"timeout: {limits.timeout:g} s"


def _subject(arguments: argparse.Namespace) -> Subject:
    names: dict[Kind, str] = {
        "tools": arguments.tool, "prompts": arguments.prompt, "resources": arguments.resource,
    }  # fmt: skip
    kind = next(kind for kind in names if names[kind])
    name = names[kind]
    server, separator, own_name = name.partition("__")
    if arguments.server is not None:
        server, own_name = arguments.server, name.removeprefix(f"{arguments.server}__")
    elif not separator or kind == "resources":
        server = own_name = ""
    try:
        annotations = json.loads(arguments.annotations)
    except ValueError as error:
        raise SettingsError(f"--annotations: not JSON: {error}") from error
    return Subject(kind, name, server, "" if kind == "resources" else own_name, json.dumps(annotations).encode())


def _named(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="narthex policy", description="Look at a policy.", allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action in ("check", "explain"):
        actions.add_parser(action, allow_abbrev=False).add_argument("file", type=Path, metavar="FILE")
    explain = actions.choices["explain"]
    asked = explain.add_mutually_exclusive_group(required=True)
    for kind in ("tool", "prompt", "resource"):
        asked.add_argument(f"--{kind}", type=_named)
    explain.add_argument("--as", dest="key", default=LOCAL.name)
    explain.add_argument("--tenant", default=LOCAL.tenant)
    explain.add_argument("--server")
    explain.add_argument("--annotations", default="{}")
    explain.add_argument("--arguments", default="{}")
    explain.add_argument("--working-directory", default="")
    return parser


if __name__ == "__main__":
    sys.exit(main())

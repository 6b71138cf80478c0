"""The policy's file."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from narthex.rates import UNLIMITED, Rate
from narthex.settings import SettingsError, nearest

from narthex_server.principal import Principal
from narthex_server.tools.policy.condition import Condition
from narthex_server.tools.policy.globs import NameTest, names
from narthex_server.tools.policy.observer import Effect
from narthex_server.tools.policy.policy import DEFAULT, Policy
from narthex_server.tools.policy.rule import NO_LIMITS, Limits, Per, Rule, Test, is_authenticated
from narthex_server.tools.policy.subject import KINDS, Kind, Subject
from narthex_server.tools.policy.uris import is_plain, readings

MAX_BYTES = 1024 * 1024
MAX_RULES = 1000
MAX_NAME = 64
ANNOTATIONS = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")

_KEYS = (
    "name", "effect", "message", "tenants", "keys", "authenticated", "servers", *KINDS, "annotations", "arguments",
    "items", "rate", "concurrency", "per", "timeout",
)  # fmt: skip
_OF_TOOLS_ALONE = ("annotations", "arguments", "items", "rate", "concurrency", "per", "timeout")


def read_policy(content: bytes, file: Path | str) -> Policy:
    """The rules of a TOML file's content; raises SettingsError that says where and why."""
    if len(content) > MAX_BYTES:
        raise SettingsError(f"{file}: has {len(content)} bytes; a policy has at most {MAX_BYTES}")
    try:
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{file}: not TOML: {error}") from error
    entries = document.pop("rules", [])
    if document:
        raise SettingsError(f'{file}: unknown key "{next(iter(document))}"; a policy holds [[rules]] only')
    if not isinstance(entries, list):
        raise SettingsError(f"{file}: write [[rules]], in double brackets")
    if len(entries) > MAX_RULES:
        raise SettingsError(f"{file}: has {len(entries)} rules; at most {MAX_RULES} are taken")
    rules: dict[str, Rule] = {}
    for index, entry in enumerate(entries):
        where = f"{file}: rules[{index}]"
        if isinstance(entry, dict) and isinstance(name := entry.get("name"), str):
            where += f" ({name[:64]!r})"
        try:
            rule = _rule(entry)
        except ValueError as error:
            raise SettingsError(f"{where}: {error}") from error
        if rule.name in rules:
            raise SettingsError(f"{where}: the name is taken by a rule above")
        rules[rule.name] = rule
    return Policy(rules.values())


def _rule(entry: object) -> Rule:
    table = _table(entry, "a rule")
    for key in table:
        if key not in _KEYS:
            raise ValueError(f'unknown key "{key}"{nearest(key, _KEYS)}')
    name, effect = _text(table, "name"), _text(table, "effect")
    if not 0 < len(name) <= MAX_NAME or not name.isprintable() or name != name.strip() or name == DEFAULT.name:
        raise ValueError(f"name must be 1 to {MAX_NAME} printable characters, and not {DEFAULT.name!r}")
    if effect not in ("allow", "deny", "confirm"):
        raise ValueError(f"effect must be allow, deny or confirm, not {effect[:50]!r}")
    message = _text(table, "message", "")
    conditions = tuple(_conditions(table, granting=effect == "allow"))
    limits = _limits(table)
    if effect == "deny" and limits != NO_LIMITS:
        raise ValueError("what is denied needs no rate, concurrency or timeout")
    return Rule(name, cast(Effect, effect), message, tuple(_tests(table, effect)), conditions, limits)


def _tests(table: Mapping[str, Any], effect: str) -> Iterator[tuple[str, Test]]:
    """What is asked of caller and entry; what decides soonest comes first."""
    kinds = _kinds(table, effect)
    if kinds != frozenset(KINDS):
        yield "kind", lambda principal, subject: subject.kind in kinds
    if "authenticated" in table:
        wanted = _flag(table, "authenticated")
        yield "authenticated", lambda principal, subject: is_authenticated(principal) == wanted
    if "tenants" in table:
        tenants = _globs(table, "tenants")
        yield "tenants", lambda principal, subject: tenants(principal.tenant)
    if "keys" in table:
        holders = _globs(table, "keys")
        yield "keys", lambda principal, subject: holders(principal.name)
    if "servers" in table:
        servers = _globs(table, "servers")
        yield "servers", lambda principal, subject: servers(subject.server)
    for kind in KINDS:
        if kind in table:
            fits = _globs(table, kind)
            if kind == "resources" and effect == "deny":
                fits = _however_read(fits)
            yield kind, _named(kind, fits, with_own="servers" in table)
    if "resources" in kinds and effect != "deny":
        yield "resources", lambda principal, subject: subject.kind != "resources" or is_plain(subject.name)
    if "annotations" in table:
        yield "annotations", _annotated(_table(table["annotations"], "annotations"))


def _kinds(table: Mapping[str, Any], effect: str) -> frozenset[Kind]:
    """What of the catalog a rule is about: what it names or, if nothing, all that can have what it asks for."""
    named = frozenset(kind for kind in KINDS if kind in table)
    only = [key for key in _OF_TOOLS_ALONE if key in table] + (["effect = 'confirm'"] if effect == "confirm" else [])
    if only and named - {"tools"}:
        raise ValueError(f"{only[0]} is for tools alone; prompts and resources need a rule of their own")
    return frozenset(("tools",)) if only else named or frozenset(KINDS)


def _named(kind: Kind, fits: NameTest, *, with_own: bool) -> Test:
    """A server may call a tool what it likes: its own names count only where the rule says which servers it means."""

    def test(principal: Principal, subject: Subject) -> bool:
        if subject.kind != kind:
            return True  # the test of its kind decides
        return fits(subject.name) or (with_own and bool(subject.own_name) and fits(subject.own_name))

    return test


def _however_read(fits: NameTest) -> NameTest:
    return lambda uri: any(map(fits, readings(uri)))


def _annotated(wanted: Mapping[str, Any]) -> Test:
    for key, value in wanted.items():
        if key not in ANNOTATIONS:
            raise ValueError(f"annotations: unknown {key!r}{nearest(key, ANNOTATIONS)}")
        if not isinstance(value, bool):
            raise ValueError(f"annotations: {key} must be true or false")

    def test(principal: Principal, subject: Subject) -> bool:
        try:
            claimed = json.loads(subject.annotations or b"{}")
        except (ValueError, RecursionError):
            return False
        return isinstance(claimed, dict) and all(claimed.get(key) is value for key, value in wanted.items())

    return test


def _conditions(table: Mapping[str, Any], *, granting: bool) -> Iterator[tuple[str, Condition]]:
    every = None
    if "items" in table:
        if (items := table["items"]) not in ("every", "any"):
            raise ValueError("items must be every or any")
        every = items == "every"
    for path, asked in _table(table.get("arguments", {}), "arguments").items():
        try:
            condition = Condition(path, asked, granting=granting, every=every)
        except ValueError as error:
            raise ValueError(f'arguments."{path}": {error}') from None
        yield f'arguments."{path}"', condition


def _limits(table: Mapping[str, Any]) -> Limits:
    rate, concurrency, timeout = UNLIMITED, table.get("concurrency", 0), table.get("timeout")
    if "rate" in table:
        try:
            rate = Rate.parse(_text(table, "rate"))
        except ValueError as error:
            raise ValueError(f"rate {error}") from None
    if not isinstance(concurrency, int) or isinstance(concurrency, bool) or concurrency < 0:
        raise ValueError("concurrency must be a whole number; 0 is no limit")
    if timeout is not None and (not isinstance(timeout, int | float) or isinstance(timeout, bool) or not timeout > 0):
        raise ValueError("timeout must be a number of seconds, more than 0")
    if (per := table.get("per", "key")) not in ("key", "tenant", "all"):
        raise ValueError("per must be key, tenant or all")
    return Limits(rate, concurrency, cast(Per, per), timeout)


def _globs(table: Mapping[str, Any], key: str) -> NameTest:
    given = table[key]
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise ValueError(f'{key} must be a list of names or patterns, such as ["time__*"]')
    return names(given)


def _table(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a table")
    return value


def _text(table: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = table.get(key, default)
    if value is None:
        raise ValueError(f"{key} is missing")
    if not isinstance(value, str):
        raise ValueError(f"{key} must be a string")
    return value


def _flag(table: Mapping[str, Any], key: str) -> bool:
    if not isinstance(value := table[key], bool):
        raise ValueError(f"{key} must be true or false")
    return value

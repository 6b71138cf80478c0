"""The rules in their order, of which the first that fits decides."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from narthex_server.principal import Principal
from narthex_server.tools.policy.rule import Rule
from narthex_server.tools.policy.subject import Subject

DEFAULT = Rule("default", "deny")
"""What decides where no rule fits."""

MOST_PLANS = 20_000
LONGEST_NAME = 512
"""Characters of names and URIs whose plan is remembered: callers make them up."""

_Key = tuple[str, str, Subject]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the policy says to one caller about one entry of the catalog before it sees arguments.

    `candidates` are the rules that are about it, up to the first that decides in any case; the last one always does.
    """

    candidates: tuple[Rule, ...]
    visible: bool
    slow: bool

    def decide(self, arguments: dict[str, Any], directory: str) -> Rule:
        """The first of the candidates that is about these arguments; `directory` as for Rule.holds."""
        return next(rule for rule in self.candidates if rule.holds(arguments, directory))


class Policy:
    """Immutable rules; what they say of callers and entries is remembered."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.rules = tuple(rules)
        self._plans: dict[_Key, Plan] = {}

    def plan(self, principal: Principal, subject: Subject) -> Plan:
        key = principal.name, principal.tenant, subject
        if (plan := self._plans.get(key)) is None:
            plan = self._made(principal, subject)
            if len(subject.name) + len(subject.own_name) > LONGEST_NAME:
                return plan
            if len(self._plans) >= MOST_PLANS:  # resources can be asked for by any name
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _made(self, principal: Principal, subject: Subject) -> Plan:
        candidates = []
        for rule in (*self.rules, DEFAULT):
            if rule.concerns(principal, subject):
                candidates.append(rule)
                if not rule.conditions:
                    break
        visible = any(rule.effect != "deny" for rule in candidates)
        return Plan(tuple(candidates), visible, any(rule.slow for rule in candidates))

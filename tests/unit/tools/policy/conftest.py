from collections.abc import Callable
from typing import Any

import pytest
from narthex_server.principal import Principal
from narthex_server.tools.policy.document import read_policy
from narthex_server.tools.policy.policy import Policy
from narthex_server.tools.policy.subject import Subject

CI = Principal("ci", "acme")


@pytest.fixture
def policy() -> Callable[[str], Policy]:
    """A policy of TOML rules."""
    return lambda text: read_policy(text.encode(), "policy.toml")


@pytest.fixture
def decide(policy):
    """The name of the rule of a policy, or of one rule's fields, that decides a call."""

    def decided(
        rules: Policy | str, arguments: dict[str, Any], subject: Subject = Subject("tools", "files__read", "files", "read"),
        principal: Principal = CI, directory: str = "",
    ) -> str:  # fmt: skip
        known = policy(rules) if isinstance(rules, str) else rules
        return known.plan(principal, subject).decide(arguments, directory).name

    return decided

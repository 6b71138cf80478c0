from collections.abc import Callable
from typing import Any

import pytest
from narthex_server.principal import Principal
from narthex_server.tools.policy.document import read_policy
from narthex_server.tools.policy.policy import Policy
from narthex_server.tools.policy.subject import Subject

CI = Principal("ci", "acme")
READ = Subject("tools", "files__read", "files", "read")


@pytest.fixture
def policy() -> Callable[[str], Policy]:
    """A policy of TOML rules."""
    return lambda text: read_policy(text.encode(), "policy.toml")


@pytest.fixture
def decide(policy):
    """The name of the rule that decides a call."""

    def decided(rules: str, arguments: dict[str, Any], subject: Subject = READ) -> str:
        return policy(rules).plan(CI, subject).decide(arguments, "").name

    return decided

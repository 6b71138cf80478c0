"""A rule of the policy."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from narthex.rates import UNLIMITED, Rate

from narthex_server.principal import LOCAL, Principal
from narthex_server.tools.policy.condition import Condition
from narthex_server.tools.policy.observer import Effect
from narthex_server.tools.policy.subject import Subject

Per = Literal["key", "tenant", "all"]
"""Whose calls a limit counts together: those of a key, of a tenant, or all that match."""

Test = Callable[[Principal, Subject], bool]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a rule lets through: how often, how many at once (0: any number), and how long, in seconds."""

    rate: Rate = UNLIMITED
    concurrency: int = 0
    per: Per = "key"
    timeout: float | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Rule:
    """`tests` are about caller and tool, `conditions` about arguments; each has the name that it has in the file."""

    name: str
    effect: Effect
    message: str = ""
    tests: tuple[tuple[str, Test], ...] = ()
    conditions: tuple[tuple[str, Condition], ...] = ()
    limits: Limits = NO_LIMITS

    def concerns(self, principal: Principal, subject: Subject) -> bool:
        """Whether it is about this caller and this entry of the catalog, whatever the arguments are."""
        return all(test(principal, subject) for _, test in self.tests)

    def holds(self, arguments: dict[str, Any], directory: str) -> bool:
        """Whether it is about these arguments; the server's process runs in `directory`, empty if that is not known."""
        return all(condition.holds(arguments, directory) for _, condition in self.conditions)

    @property
    def slow(self) -> bool:
        """Whether looking at arguments may take longer than the event loop should wait."""
        return any(condition.slow for _, condition in self.conditions)


def is_authenticated(principal: Principal) -> bool:
    """Whether this is somebody with a credential, and not whoever reaches a server without keys."""
    return (principal.name, principal.tenant) != (LOCAL.name, LOCAL.tenant)

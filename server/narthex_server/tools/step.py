"""What stands around every call of a tool, between the search for it and its run."""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from narthex_server.tools.tool import CallContext, Tool, ToolEvent


class Trail:
    """What the steps note about one call, for those who report on it when it is over."""

    def __init__(self) -> None:
        self.rule = ""  # of the policy, which let it through or refused it
        self.cached = False  # answered without asking the tool


@dataclass(frozen=True, slots=True)
class Invocation:
    """A call of a tool that exists and is in the caller's scope; whether the arguments fit is not checked yet.

    `raw` is the JSON that `arguments` was parsed from.
    """

    tool: Tool
    raw: bytes
    arguments: dict[str, Any]
    context: CallContext
    trail: Trail = field(default_factory=Trail)


Run = Callable[[Invocation], AsyncGenerator[ToolEvent]]
"""Yields the events of a call; closing it cancels the call."""


class Step(Protocol):
    """May refuse a call, answer it, change it, or watch it."""

    def around(self, call: Invocation, run: Run) -> AsyncGenerator[ToolEvent]:
        """Yields what `run` does with the call, or something else instead; raises what may be raised by calls."""


def chained(steps: Sequence[Step], last: Run) -> Run:
    """All of them as one, the first outermost."""
    run = last
    for step in reversed(steps):
        run = _bound(step, run)
    return run


def _bound(step: Step, run: Run) -> Run:
    return lambda call: step.around(call, run)

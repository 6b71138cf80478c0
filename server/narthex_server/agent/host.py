"""What all runs of a server share."""

from dataclasses import dataclass, field
from typing import Protocol

from narthex_server.pipelines.events import Finished
from narthex_server.tools.inputs import RunningCalls
from narthex_server.tools.kept_results import KeptResults


class AgentObserver(Protocol):
    """Told of every run when it is over."""

    def on_run(self, finished: Finished | None, rounds: int, calls: int) -> None:
        """`finished` is None for one that was broken off or failed."""


class _Nobody:
    def on_run(self, finished: Finished | None, rounds: int, calls: int) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Host:
    """Calls that wait for answers, results that were too large, and who counts."""

    running: RunningCalls = field(default_factory=RunningCalls)
    kept: KeptResults = field(default_factory=KeptResults)
    observer: AgentObserver = field(default_factory=_Nobody)

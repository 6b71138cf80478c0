"""What the event loop and the engine thread tell each other."""

from dataclasses import dataclass, field
from typing import Any

from narthex_server.engine.adapters import Mixture
from narthex_server.engine.observer import EngineStats, RequestReport, StepReport
from narthex_server.engine.request import EngineRequest, Finished
from narthex_server.engine.sampling.logprobs import PositionLogprobs
from narthex_server.errors import NarthexError


@dataclass(frozen=True, slots=True)
class Submit:
    key: int
    request: EngineRequest
    submitted: float
    mixture: Mixture | None = None


@dataclass(frozen=True, slots=True)
class Abort:
    key: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Refuse what finds no slot; let run what runs."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Cancel everything and end the thread."""


@dataclass(frozen=True, slots=True)
class LoadAdapter:
    """Put an adapter that was checked in an empty place."""

    ticket: int
    place: int
    adapter: Any


@dataclass(frozen=True, slots=True)
class UnloadAdapter:
    """Empty a place once nothing that was submitted before uses it."""

    ticket: int
    place: int


Message = Submit | Abort | LoadAdapter | UnloadAdapter | Drain | Stop


@dataclass(frozen=True, slots=True)
class Settled:
    """An adapter is loaded or gone, or could not be."""

    ticket: int
    error: NarthexError | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A request's end: one of `finished` and `error`; no report if it never reached the thread."""

    key: int
    report: RequestReport | None
    finished: Finished | None = None
    error: NarthexError | None = None


@dataclass(slots=True)
class Batch:
    """Everything that one wake-up of the event loop delivers; `last` when the thread ends."""

    tokens: list[tuple[int, int]] = field(default_factory=list)
    logprobs: list[tuple[int, PositionLogprobs]] = field(default_factory=list)
    """Of the tokens, in their order, for the requests that asked."""
    prompts: list[tuple[int, list[PositionLogprobs]]] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    step: StepReport | None = None
    stats: EngineStats | None = None
    last: bool = False

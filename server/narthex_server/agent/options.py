"""What a caller may say about a run of tools."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import orjson

from narthex_server.errors import Violation
from narthex_server.tools.tool import Tool

MAX_ROUNDS = 64
MAX_PARALLEL = 64
MIN_RESULT_BYTES, MIN_RESULT_TOKENS = 256, 64


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may use up over all rounds; None is no limit. Time in seconds, results in bytes as tools give them."""

    seconds: float | None = None
    generated_tokens: int | None = None
    total_tokens: int | None = None
    tool_calls: int | None = None
    result_bytes: int | None = None

    def validate(self) -> Iterator[Violation]:
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            yield Violation("agent.max_seconds", f"must be more than 0, got {self.seconds:g}")
        for name in ("generated_tokens", "total_tokens", "tool_calls", "result_bytes"):
            if getattr(self, name) == 0:
                yield Violation(f"agent.max_{name}", "must be at least 1")


@dataclass(frozen=True, slots=True)
class Approvals:
    """Which calls need a person's yes, and how many seconds they wait for it."""

    tools: tuple[str, ...] = ()
    unless_read_only: bool = False
    seconds: float = 300.0

    def reason(self, tool: Tool) -> str:
        """Why a call of the tool needs approval, for people; empty if it needs none."""
        for glob in self.tools:
            if fnmatchcase(tool.name, glob):
                return f"the request asks for approval of {glob}"
        if self.unless_read_only and not _reads_only(tool):
            return "the tool does not say that it only reads"
        return ""

    def validate(self) -> Iterator[Violation]:
        if not 0 < self.seconds < math.inf:
            yield Violation("agent.approvals.max_wait_seconds", f"must be more than 0, got {self.seconds:g}")


@dataclass(frozen=True, slots=True)
class ResultLimits:
    """How much the model reads of results: of one, in bytes of text and in tokens, and in bytes of all together.

    Without `tokens` it is a quarter of the model's context.
    """

    bytes: int = 64 * 1024
    tokens: int | None = None
    total_bytes: int | None = None

    def validate(self) -> Iterator[Violation]:
        if self.bytes < MIN_RESULT_BYTES:
            yield Violation("agent.results.max_bytes", f"must be at least {MIN_RESULT_BYTES}, got {self.bytes}")
        if self.tokens is not None and self.tokens < MIN_RESULT_TOKENS:
            yield Violation("agent.results.max_tokens", f"must be at least {MIN_RESULT_TOKENS}, got {self.tokens}")


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """Which tools of the catalog are offered (empty: all forwarded ones), and how far the run may go.

    `tool_seconds` bounds each call, people's time to answer not counted. `repeats` is after how many equal calls with
    equal results the model is told; 0 is never.
    """

    catalog_tools: tuple[str, ...] = ()
    max_tool_rounds: int = 8
    tool_seconds: float = 60.0
    parallel: int = 8
    repeats: int = 3
    limits: Limits = Limits()
    approvals: Approvals = Approvals()
    results: ResultLimits = ResultLimits()

    def validate(self) -> Iterator[Violation]:
        """The fields at fault."""
        if not 1 <= self.max_tool_rounds <= MAX_ROUNDS:
            yield Violation("max_tool_rounds", f"must be 1 to {MAX_ROUNDS}, got {self.max_tool_rounds}")
        if not 1 <= self.parallel <= MAX_PARALLEL:
            yield Violation("agent.max_parallel_tool_calls", f"must be 1 to {MAX_PARALLEL}, got {self.parallel}")
        yield from self.limits.validate()
        yield from self.approvals.validate()
        yield from self.results.validate()


def _reads_only(tool: Tool) -> bool:
    try:
        declared = orjson.loads(tool.annotations or b"{}")
    except ValueError:
        return False
    return isinstance(declared, dict) and declared.get("readOnlyHint") is True

"""What a run has used up of what it may."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from narthex_server.agent.options import Limits
from narthex_server.pipelines.events import Budget, Usage
from narthex_server.pipelines.request import StoppingOptions
from narthex_server.tools.tool import ToolResult


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many tokens the next turn may generate, and which budget says so."""

    tokens: int
    budget: Budget


class Spending:
    """Adds up one run; its time begins now, on `clock`."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._result_bytes = 0
        self.deadline = None if limits.seconds is None else clock() + limits.seconds
        self.usage = Usage()
        self.calls = 0

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return self.deadline is not None and self._clock() >= self.deadline

    @property
    def over(self) -> Budget | None:
        """The budget that is used up, so that nothing more may be done; None where all have something left."""
        limits, usage = self._limits, self.usage
        generated, total = usage.completion_tokens, usage.prompt_tokens + usage.completion_tokens
        if self.late:
            return Budget.SECONDS
        if limits.generated_tokens is not None and generated >= limits.generated_tokens:
            return Budget.GENERATED_TOKENS
        if limits.total_tokens is not None and total >= limits.total_tokens:
            return Budget.TOTAL_TOKENS
        if limits.result_bytes is not None and self._result_bytes >= limits.result_bytes:
            return Budget.RESULT_BYTES
        return None

    @property
    def counts_prompts(self) -> bool:
        """Whether prompts cost something that is limited."""
        return self._limits.total_tokens is not None

    def allowance(self, prompt: int) -> Allowance | None:
        """What a turn with so many prompt tokens may generate, 0 or less for nothing; None if nothing limits it."""
        limits, usage = self._limits, self.usage
        found = []
        if limits.generated_tokens is not None:
            found.append(Allowance(limits.generated_tokens - usage.completion_tokens, Budget.GENERATED_TOKENS))
        if limits.total_tokens is not None:
            spent = usage.prompt_tokens + usage.completion_tokens
            found.append(Allowance(limits.total_tokens - spent - prompt, Budget.TOTAL_TOKENS))
        return min(found, key=lambda one: one.tokens, default=None)

    @property
    def calls_left(self) -> int | None:
        """How many more calls may be made; None if nothing limits them."""
        return None if self._limits.tool_calls is None else self._limits.tool_calls - self.calls

    def add_result(self, result: ToolResult) -> None:
        self.calls += 1
        self._result_bytes += len(result.content) + len(result.structured_content)


def bounded(stopping: StoppingOptions, allowance: Allowance) -> StoppingOptions:
    """The options with no more tokens than allowed; the very same where they allow fewer already."""
    if stopping.max_tokens is not None and stopping.max_tokens <= allowance.tokens:
        return stopping
    least = min(stopping.min_tokens, allowance.tokens)
    return replace(stopping, max_tokens=allowance.tokens, min_tokens=least, fit_context=True)

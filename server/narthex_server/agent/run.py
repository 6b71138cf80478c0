"""What one run of the agent knows between its rounds."""

from dataclasses import dataclass, replace

from narthex_server.agent.calls import Calls
from narthex_server.agent.cutting import Cutter
from narthex_server.agent.events import AgentEvent, ToolCallResult
from narthex_server.agent.offer import Offer
from narthex_server.agent.repetition import Repetition
from narthex_server.agent.results import result_text
from narthex_server.agent.spending import Allowance, Spending
from narthex_server.pipelines.events import Budget, Finished, FinishReason
from narthex_server.pipelines.request import ChatRequest, ToolChoice
from narthex_server.text.messages import Message, ToolCall
from narthex_server.tools.kept_results import KeptResults
from narthex_server.tools.native.read_result import ReadResultTool
from narthex_server.tools.tool import ToolResult


@dataclass(slots=True)
class Run:
    """One run between its rounds."""

    request: ChatRequest
    own: frozenset[str]
    offer: Offer
    calls: Calls
    spending: Spending
    cutter: Cutter
    repetition: Repetition
    number: int = 0
    least_prompt: int = 0
    finished: Finished | None = None
    reads_on: bool = False

    def end(self, budget: Budget) -> AgentEvent:
        """The end of the run before a turn of the model."""
        return AgentEvent(self.number, Finished(FinishReason.BUDGET, self.spending.usage, budget=budget))

    def ended(self, turn: Finished, allowance: Allowance | None, most: int) -> AgentEvent | None:
        """The end of the run after a turn of the model; None if its calls are to be made."""
        self.spending.usage += turn.usage
        self.least_prompt = turn.usage.prompt_tokens + turn.usage.completion_tokens
        if turn.reason is FinishReason.CANCELLED and self.spending.late:
            return self._end(turn, FinishReason.BUDGET, Budget.SECONDS)
        if turn.reason is FinishReason.LENGTH and allowance and turn.usage.completion_tokens >= allowance.tokens:
            return self._end(turn, FinishReason.BUDGET, allowance.budget)
        if turn.reason is not FinishReason.TOOL_CALLS:
            return self._end(turn, turn.reason)
        if self.number > most:
            return self._end(turn, FinishReason.TOOL_ROUNDS)
        if (over := self.spending.over) is not None:
            return self._end(turn, FinishReason.BUDGET, over)
        return None

    async def result(self, call: ToolCall, result: ToolResult) -> ToolCallResult:
        """What the model reads of a call's result."""
        self.spending.add_result(result)
        text = await self.cutter.fit(result_text(result))
        if note := self.repetition.note(call, result):
            text = f"{text}\n{note}"
        return ToolCallResult(call.id, call.name, result, text)

    def after(self, turn: Finished, unmade: int, own: int) -> AgentEvent | None:
        """The end of the run after its tools have run; None if the model speaks again."""
        if own:
            return self._end(turn, turn.reason)
        if (over := Budget.TOOL_CALLS if unmade else self.spending.over) is not None:
            return self._end(turn, FinishReason.BUDGET, over)
        if self.repetition.endless:
            return self._end(turn, FinishReason.REPETITION)
        return None

    def go_on(self, said: tuple[Message, ...], kept: KeptResults) -> None:
        """Makes the request of the next round."""
        request = self.request
        if self.cutter.cut and not self.reads_on:
            self.reads_on = True
            reader = ReadResultTool(kept, self.cutter.longest, self.offer.free("read_result"))
            request = replace(request, tools=(*request.tools, self.offer.add(reader)))
        # A forced call is forced once, otherwise the model could never answer.
        choice = ToolChoice() if request.tool_choice.forced else request.tool_choice
        # The caller chose max_tokens without knowing how much of the context the tools would take.
        stopping = replace(request.stopping, fit_context=True)
        messages = (*request.messages, *said)
        scoring = replace(request.scoring, prompt=None)  # only the first round's prompt is shown
        self.request = replace(request, messages=messages, tool_choice=choice, stopping=stopping, scoring=scoring)

    def _end(self, turn: Finished, reason: FinishReason, budget: Budget | None = None) -> AgentEvent:
        return AgentEvent(self.number, replace(turn, usage=self.spending.usage, reason=reason, budget=budget))
